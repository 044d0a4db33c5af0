"""What the state directory says, and what the gateway makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway_lite.catalog import Scanner, identity
from gateway_lite.standing import phase_of
from hpc import state
from hpc.config import Backend
from hpc.model import Endpoint, Phase, ServiceSpec

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_000_000.0
SPEC = ServiceSpec(name="m", engine="llamacpp", server="llama-server", model="/m.gguf")
READY = Endpoint(
    service="m",
    replica=0,
    model="m",
    host="node1",
    port=4000,
    phase=Phase.READY,
    job_id="7",
    ends_at=None,
    beat_at=NOW,
    slots=2,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return state.home(str(tmp_path))


@pytest.mark.parametrize(
    ("phase", "age", "expected"),
    [
        (Phase.READY, 0, Phase.READY),
        (Phase.READY, state.STALE_S, Phase.READY),
        (Phase.READY, state.STALE_S + 1, Phase.STOPPED),
        (Phase.READY, -5, Phase.READY),
        (Phase.LOADING, 10, Phase.LOADING),
        (Phase.LOADING, 9999, Phase.STOPPED),
        (Phase.DRAINING, 9999, Phase.DRAINING),
        (Phase.FAILED, 9999, Phase.FAILED),
    ],
)
def test_a_heart_that_stopped_is_no_replica(phase: Phase, age: float, expected: Phase) -> None:
    assert phase_of(replace(READY, phase=phase, beat_at=NOW - age), NOW) is expected


def test_no_word_yet_means_queued() -> None:
    assert phase_of(None, NOW) is Phase.QUEUED


def test_a_job_that_was_restarted_is_another_replica() -> None:
    others = [replace(READY, job_id="8"), replace(READY, port=1), replace(READY, host="node2")]
    assert len({identity(endpoint) for endpoint in (READY, *others)}) == 4


def test_a_ready_replica_with_a_secret_takes_requests(root: Path) -> None:
    state.save_spec(root, SPEC)
    state.save_endpoint(root, READY)
    scanner = Scanner(root)
    model = scanner.scan(NOW).models["m"]
    assert (model.phase, model.replicas) == (Phase.READY, ())
    secret = state.new_secret(root, "m", 0)
    (replica,) = scanner.scan(NOW).models["m"].replicas
    assert (replica.url, replica.secret, replica.slots) == ("http://node1:4000", secret, 2)
    assert replica.name == "m/0"


def test_the_best_phase_speaks_for_the_model(root: Path) -> None:
    state.save_spec(root, replace(SPEC, replicas=3))
    scanner = Scanner(root)
    assert scanner.scan(NOW).models["m"].phase is Phase.QUEUED
    state.save_endpoint(root, replace(READY, replica=0, phase=Phase.FAILED))
    state.save_endpoint(root, replace(READY, replica=1, phase=Phase.LOADING))
    model = scanner.scan(NOW).models["m"]
    assert (model.phase, model.asked) == (Phase.LOADING, 3)


def test_a_secret_is_read_again_when_it_was_refused_or_the_job_is_new(root: Path) -> None:
    state.save_spec(root, SPEC)
    state.save_endpoint(root, READY)
    old = state.new_secret(root, "m", 0)
    scanner = Scanner(root)

    def secret(refused: tuple[str, ...] = ()) -> str | None:
        return scanner.scan(NOW, refused).models["m"].replicas[0].secret

    assert secret() == old
    new = state.new_secret(root, "m", 0)
    assert secret() == old
    assert secret((identity(READY),)) == new
    newest = state.new_secret(root, "m", 0)
    state.save_endpoint(root, replace(READY, job_id="8"))
    assert secret() == newest


def test_one_failed_reading_changes_nothing_and_two_do(root: Path) -> None:
    state.save_spec(root, SPEC)
    state.save_endpoint(root, READY)
    state.new_secret(root, "m", 0)
    scanner = Scanner(root)
    assert scanner.scan(NOW).models["m"].replicas
    (state.replica_dir(root, "m", 0) / "endpoint.json").write_text("{")
    assert scanner.scan(NOW).models["m"].replicas
    assert scanner.scan(NOW).models["m"].phase is Phase.QUEUED


def test_a_spec_that_cannot_be_read_keeps_the_service_and_a_folder_gone_ends_it(
    root: Path,
) -> None:
    state.save_spec(root, SPEC)
    scanner = Scanner(root)
    scanner.scan(NOW)
    (state.service_dir(root, "m") / "spec.json").write_text("")
    assert "m" in scanner.scan(NOW).models
    state.drop_service(root, "m")
    assert "m" not in scanner.scan(NOW).models


def test_a_root_that_cannot_be_read_is_an_error_and_not_an_empty_catalog(root: Path) -> None:
    scanner = Scanner(root)
    root.rmdir()
    with pytest.raises(OSError, match="No such file"):
        scanner.scan(NOW)


def test_static_backends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", "k")
    backends = [
        Backend("a", "vllm", "http://h:1/v1"),
        Backend("m", "llamacpp", "http://h:2", api_key_env="THEIR_KEY"),
    ]
    state.save_spec(root, SPEC)
    state.save_endpoint(root, READY)
    state.new_secret(root, "m", 0)
    models = Scanner(root, backends).scan(NOW).models
    assert list(models) == ["a", "m"]
    assert models["a"].replicas[0].url == "http://h:1"
    assert models["a"].replicas[0].secret is None
    assert [replica.name for replica in models["m"].replicas] == ["m", "m/0"]
    assert models["m"].replicas[0].secret == "k"


def test_an_ipv6_host_makes_an_address(root: Path) -> None:
    state.save_spec(root, SPEC)
    state.save_endpoint(root, replace(READY, host="fd00::1"))
    state.new_secret(root, "m", 0)
    assert Scanner(root).scan(NOW).models["m"].replicas[0].url == "http://[fd00::1]:4000"
