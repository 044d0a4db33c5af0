"""What the gateway tells of itself and of its models."""

from __future__ import annotations

from pathlib import Path

from gateway_lite.api import status
from gateway_lite.catalog.models import Catalog, Model, ReplicaStatus
from gateway_lite.catalog.replica import Replica
from hpc.model import Phase, Reload, ServiceSpec

SPEC = ServiceSpec(
    "big", "vllm", "vllm", "org/secret-path", revision="r1", env={"HF_TOKEN": "hidden"}
)
MEMBERS = (ReplicaStatus(0, Phase.READY, "7"), ReplicaStatus(1, Phase.QUEUED))
CATALOG = Catalog(
    {
        "big": Model("big", Phase.READY, 2, (Replica("k", "big/0", "http://h:1"),), MEMBERS, SPEC),
        "small": Model("small", Phase.QUEUED, 1, ()),
    }
)
ALIASES = {"gpt": "big", "mini": "small", "lost": "gone"}


def test_aliases_are_listed_with_what_they_stand_for() -> None:
    told = status.listing(CATALOG, ALIASES, created=5, allows=lambda _: True)
    assert told["object"] == "list"
    assert [entry["id"] for entry in told["data"]] == ["big", "small", "gpt", "mini"]
    assert told["data"][2] == {
        "id": "gpt",
        "object": "model",
        "created": 5,
        "owned_by": "hpc-serve",
        "type": "model",
        "display_name": "gpt",
        "created_at": "1970-01-01T00:00:05+00:00",
        "lifecycle": "active",
        "alias_of": "big",
        "phase": "READY",
        "replicas": {"ready": 1, "asked": 2},
    }
    assert "alias_of" not in told["data"][0]
    assert (told["first_id"], told["last_id"], told["has_more"]) == ("big", "mini", False)
    empty = status.listing(CATALOG, ALIASES, created=5, allows=lambda _: False)
    assert (empty["data"], empty["first_id"], empty["last_id"]) == ([], None, None)


def test_a_key_sees_what_it_may_use() -> None:
    def names(*allowed: str) -> list[str]:
        told = status.listing(CATALOG, ALIASES, created=5, allows=allowed.__contains__)
        return [entry["id"] for entry in told["data"]]

    assert names("big") == ["big", "gpt"]
    assert names("gpt") == ["gpt"]
    assert names("other") == []


def test_the_version_tells_what_serves_each_model() -> None:
    outcome = Reload(taken_at=3.0, refused="/etc/x/models.yaml:3: no", refused_at=4.0)
    told = status.version(
        CATALOG,
        outcome,
        digest="abc",
        path=Path("/etc/x/models.yaml"),
        allows="big".__eq__,
    )
    assert told["config"] == "abc"
    assert told["models_file"] == {
        "taken_at": 3.0,
        "refused": "models.yaml:3: no",
        "refused_at": 4.0,
    }
    assert told["models"] == {
        "big": {"engine": "vllm", "revision": "r1", "phase": "READY", "jobs": ["7"]}
    }
    assert "secret" not in str(told)
    assert "hidden" not in str(told)
