"""A client with a key at /metrics: it sees its own requests and its models, and nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hpc.gateway import owner_access
from hpc.keys import store as key_store
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, PATIENCE_S, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.samples import Sample

    from tests.contract.gateway.programs import Running

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the module's gateway."""
    return directory.home(str(tmp_path_factory.mktemp("metrics") / "home"))


@pytest.fixture(scope="module", params=["1", "2"])
def gateway(request: pytest.FixtureRequest, home: Path) -> Iterator[Running]:
    """Run a gateway with two models, alone and with two workers."""
    path = directory.keys_path(home)
    path.unlink(missing_ok=True)
    with (
        serve(Engine()) as url,
        run_gateway(
            home,
            {"open": url, "hidden": url},
            *("--workers", request.param),
            policy={"aliases": {"secretly": "hidden"}},
        ) as running,
    ):
        yield running


def add(
    home: Path, gateway: Running, name: str, models: tuple[str, ...] = (), *, metrics: bool = False
) -> str:
    """Return a new key, once every worker takes it."""
    given, _ = key_store.add(directory.keys_path(home), name, models=models, metrics=metrics)
    wait_until(lambda: all(get(gateway, given, "/version").status_code == 200 for _ in range(8)))
    return given


def get(gateway: Running, key: str, path: str = "/metrics") -> httpx.Response:
    """Ask for a page over a new connection."""
    auth = {"authorization": f"Bearer {key}"}
    return httpx.get(gateway.url + path, headers=auth, trust_env=False, timeout=PATIENCE_S)


def post(gateway: Running, key: str, model: str) -> int:
    """Ask a model, and return the status."""
    auth = {"authorization": f"Bearer {key}"}
    body = {**BODY, "model": model, "usage": USAGE}
    url = gateway.url + "/v1/chat/completions"
    return httpx.post(url, json=body, headers=auth, trust_env=False, timeout=60).status_code


def samples(gateway: Running, key: str) -> list[Sample]:
    """Return all samples that a key sees."""
    answer = get(gateway, key)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return [one for each in text_string_to_metric_families(answer.text) for one in each.samples]


def seen(gateway: Running, key: str, label: str) -> set[str]:
    """Return the values of a label that a key sees."""
    return {one.labels[label] for one in samples(gateway, key) if label in one.labels}


@pytest.fixture(scope="module")
def used(home: Path, gateway: Running) -> dict[str, str]:
    """Return keys that all have asked."""
    keys = {
        "alice": add(home, gateway, "alice", ("open",)),
        "bob": add(home, gateway, "bob"),
        "scraper": add(home, gateway, "prometheus", metrics=True),
        "owner": add(home, gateway, "owner"),
    }
    for name in ("alice", "bob", "owner"):
        assert post(gateway, keys[name], "open") == 200
    for name in ("bob", "owner"):
        assert post(gateway, keys[name], "hidden") == 200
    for model in ("hidden", "secretly", "never-was"):
        assert post(gateway, keys["alice"], model) in (403, 404)
    assert get(gateway, "hs-wrong").status_code == 401
    return keys


def test_a_key_sees_its_own_use_and_its_models(gateway: Running, used: dict[str, str]) -> None:
    assert seen(gateway, used["alice"], "key") == {"alice"}
    assert seen(gateway, used["alice"], "model") <= {"open", ""}
    text = get(gateway, used["alice"]).text
    for word in (
        "bob",
        "owner",
        "prometheus",
        "scraper",
        "hidden",
        "secretly",
        "never-was",
        "tester",
    ):
        assert word not in text
    own = [one for one in samples(gateway, used["alice"]) if one.name.endswith("_tokens_total")]
    assert {(one.labels["kind"], one.value) for one in own} == {("prompt", 7), ("completion", 3)}


def test_a_key_for_all_models_sees_no_other_key(gateway: Running, used: dict[str, str]) -> None:
    assert seen(gateway, used["bob"], "key") == {"bob"}
    assert {"open", "hidden"} <= seen(gateway, used["bob"], "model")
    text = get(gateway, used["bob"]).text
    assert "alice" not in text
    assert 'model="other"' not in text


def test_a_wrong_name_counts_as_a_hidden_one(
    gateway: Running, home: Path, used: dict[str, str]
) -> None:
    del used
    eve = add(home, gateway, f"eve{gateway.port}", ("open",))

    def counts() -> dict[tuple[str, ...], float]:
        return {
            (one.name, *sorted(one.labels.values())): one.value
            for one in samples(gateway, eve)
            if not one.name.startswith(("process_", "python_")) and one.labels.get("model") != ""
        }

    before = counts()
    post(gateway, eve, "hidden")
    after_hidden = counts()
    post(gateway, eve, "never-was")

    assert before == after_hidden == counts()


@pytest.mark.parametrize("name", ["owner", "scraper"])
def test_the_owner_and_a_scraper_see_everything(
    gateway: Running, used: dict[str, str], name: str
) -> None:
    assert {"alice", "bob", "owner"} <= seen(gateway, used[name], "key")
    assert {"open", "hidden"} <= seen(gateway, used[name], "model")


def test_a_scrapers_key_opens_no_model(gateway: Running, used: dict[str, str]) -> None:
    assert post(gateway, used["scraper"], "open") == 403
    assert get(gateway, used["scraper"], "/v1/models").json()["data"] == []


@pytest.mark.parametrize("models", [("open",), ("open", "hidden")])
def test_the_owners_name_alone_is_not_enough(
    home: Path, gateway: Running, used: dict[str, str], models: tuple[str, ...]
) -> None:
    path = directory.keys_path(home)
    key_store.revoke(path, "owner")
    limited = add(home, gateway, "owner", models)

    assert seen(gateway, limited, "key") == {"owner"}
    key_store.revoke(path, "owner")
    used["owner"] = add(home, gateway, "owner")


def test_without_keys_the_metrics_are_whole(tmp_path: Path) -> None:
    home = directory.home(str(tmp_path / "home"))
    with serve(Engine()) as url, run_gateway(home, {"m": url}, policy={"anonymous": True}) as open_:
        alice = add(home, open_, "alice")
        assert post(open_, alice, "m") == 200
        text = httpx.get(open_.url + "/metrics", trust_env=False, timeout=PATIENCE_S).text

        assert 'key="alice"' in text


def test_the_owners_own_key_sees_everything(tmp_path: Path) -> None:
    home = directory.home(str(tmp_path / "home"))
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as running:
        assert running.post({}).status_code == 200
        ours = owner_access.owner_key(home)
        wait_until(lambda: get(running, ours).status_code == 200)

        assert 'key="tester"' in get(running, ours).text
