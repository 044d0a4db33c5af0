"""Services by their records alone: no job is started here, see tests/contract/test_service.py."""

from __future__ import annotations

import pickle
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.config import Backend, Config, Site
from hpc.errors import ConfigError, EngineError, SchedulerError
from hpc.model import Endpoint, JobHandle, JobState, Phase, ServiceSpec
from hpc.services import lifecycle
from hpc.services.phase import OVER, Service
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable

SPEC = ServiceSpec(
    name="tiny",
    engine="llamacpp",
    server="llama-server",
    model="org/tiny-GGUF",
    container="none",
)
ELSEWHERE = "login7"
NO_PID = 2**22
"""More than the kernel gives to a process."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return directory.home(str(tmp_path / "state"))


def configured(root: Path, *specs: ServiceSpec, backends: tuple[Backend, ...] = ()) -> Config:
    return Config(root, None, {spec.name: spec for spec in specs}, backends, Site())


def record_job(
    root: Path,
    number: int = 0,
    *,
    spec: ServiceSpec = SPEC,
    host: str | None = None,
    result: tuple[str, str] | None = None,
) -> None:
    """Record a local job that ran on a host, as its submission and its end would have."""
    directory.save_spec(root, spec)
    folder = directory.jobs_dir(root, spec.name)
    folder.mkdir(parents=True, exist_ok=True)
    job_id = str(NO_PID + number)
    (folder / f"{job_id}_host").write_text(host or socket.gethostname())
    if result is not None:
        (folder / f"{job_id}_0_result.pkl").write_bytes(pickle.dumps(result))
    directory.save_job(root, spec.name, number, JobHandle(job_id, "local", str(folder)))


def say(root: Path, phase: Phase, number: int = 0, *, cause: str | None = None) -> None:
    """Publish what a replica's node would."""
    now = time.time()
    told = Endpoint(
        service="tiny",
        replica=number,
        model="tiny",
        host="127.0.0.1",
        port=40001,
        phase=phase,
        job_id=str(NO_PID + number),
        ends_at=None,
        beat_at=now,
        cause=cause,
        phases={phase.value: now},
    )
    directory.save_endpoint(root, told)


def records(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large", "models.yaml has no model 'large' to submit; it has: other, tiny"),
        ("", "models.yaml has no model '' to submit; it has: other, tiny"),
        ("remote", "'remote' is a static backend: it has an address and needs no job"),
    ],
)
def test_only_a_managed_entry_is_submitted(root: Path, name: str, said: str) -> None:
    backend = Backend("remote", "vllm", "http://gpu1:8000")
    config = configured(root, SPEC, replace(SPEC, name="other"), backends=(backend,))
    with pytest.raises(ConfigError, match=f"^{said}$"):
        lifecycle.submit(config, name)
    assert records(root) == []


def test_the_file_that_lacks_a_model_is_named(root: Path) -> None:
    config = replace(configured(root), models_file=Path("/project/models.yaml"))
    with pytest.raises(
        ConfigError, match=r"^/project/models.yaml has no model 'x' to submit; it has: none$"
    ):
        lifecycle.submit(config, "x")


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, model="/no/such.gguf"),
        replace(SPEC, container="apptainer", image="/no/such.sif"),
    ],
    ids=["model", "image"],
)
def test_what_no_job_could_serve_leaves_no_record(root: Path, spec: ServiceSpec) -> None:
    with pytest.raises(EngineError, match=r"is not there$"):
        lifecycle.submit(configured(root, spec), "tiny", cluster="local")
    assert records(root) == []


def test_a_failed_check_keeps_what_an_older_submission_left(root: Path) -> None:
    record_job(root, result=("error", "boom"))
    before = records(root)
    with pytest.raises(EngineError):
        lifecycle.submit(configured(root, replace(SPEC, model="/no/such.gguf")), "tiny")
    assert records(root) == before


def test_what_may_be_alive_is_not_submitted_again(root: Path) -> None:
    """A job on another machine is unknown here, and unknown is not gone."""
    record_job(root, host=ELSEWHERE)
    before = records(root)
    with pytest.raises(ConfigError, match=r"^the service 'tiny' runs already$") as caught:
        lifecycle.submit(configured(root, SPEC), "tiny", cluster="local")
    assert caught.value.hint == "see 'hpc-serve status tiny', or stop it"
    assert records(root) == before


def test_one_replica_that_may_be_alive_is_enough(root: Path) -> None:
    spec = replace(SPEC, replicas=2)
    record_job(root, 0, spec=spec, result=("error", "boom"))
    record_job(root, 1, spec=spec, host=ELSEWHERE)
    with pytest.raises(ConfigError, match="runs already"):
        lifecycle.submit(configured(root, spec), "tiny", cluster="local")


def test_a_refusal_of_this_machine_leaves_no_record(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    record_job(root, result=("error", "boom"))
    spec = replace(SPEC, resources=replace(SPEC.resources, gpus=1))
    with pytest.raises(
        SchedulerError, match=r"^replica 0 needs 1 GPU\(s\) of its own, this machine shows 0$"
    ):
        lifecycle.submit(configured(root, spec), "tiny", cluster="local")
    assert records(root) == []


def test_a_look_joins_both_words_for_each_replica(root: Path) -> None:
    spec = replace(SPEC, replicas=4)
    for number, result in enumerate([("success", ""), ("error", "Traceback\nboom"), None]):
        record_job(root, number, spec=spec, result=result)
    (found,) = lifecycle.look(root)
    assert found.spec == spec
    assert found.ready == 0
    assert [(r.number, r.phase, r.status.state, r.note) for r in found.replicas] == [
        (0, Phase.STOPPED, JobState.DONE, None),
        (1, Phase.FAILED, JobState.FAILED, "the job ended: boom"),
        (2, Phase.FAILED, JobState.FAILED, "the job ended: its process ended without a result"),
        (3, Phase.FAILED, JobState.GONE, "no job was submitted"),
    ]


def test_what_a_node_said_wins_over_how_its_job_ended(root: Path) -> None:
    record_job(root, result=("error", "EngineError: out of memory"))
    say(root, Phase.FAILED, cause="the engine ran out of memory")
    replica = lifecycle.find(root, "tiny").replicas[0]
    assert (replica.phase, replica.note) == (Phase.FAILED, "the engine ran out of memory")


def test_a_look_takes_all_or_those_that_are_named(root: Path) -> None:
    assert lifecycle.look(root) == []
    for name in ("b", "a", "c"):
        directory.save_spec(root, replace(SPEC, name=name))
    (root / "services" / "half-removed").mkdir()
    assert [found.spec.name for found in lifecycle.look(root)] == ["a", "b", "c"]
    assert [found.spec.name for found in lifecycle.look(root, ["c", "nobody", "a"])] == ["c", "a"]
    assert lifecycle.look(root, []) == []


@pytest.mark.parametrize("action", [lifecycle.find, lifecycle.wait, lifecycle.stop])
def test_a_service_that_is_none_is_told_beside_those_that_are(
    root: Path, action: Callable[[Path, str], object]
) -> None:
    directory.save_spec(root, replace(SPEC, name="a"))
    directory.save_spec(root, replace(SPEC, name="b"))
    with pytest.raises(ConfigError, match=r"^there is no service 'c'; there are: a, b$"):
        action(root, "c")


def test_waiting_ends_when_all_are_ready(root: Path) -> None:
    record_job(root, host=ELSEWHERE)
    say(root, Phase.READY)
    seen: list[int] = []
    found = lifecycle.wait(root, "tiny", timeout_s=60, tell=lambda one: seen.append(one.ready))
    assert (found.ready, seen) == (1, [1])


def test_one_ready_replica_of_two_is_not_ready(root: Path) -> None:
    record_job(root, 0, spec=replace(SPEC, replicas=2), host=ELSEWHERE)
    record_job(root, 1, spec=replace(SPEC, replicas=2), host=ELSEWHERE)
    say(root, Phase.READY, 0)
    say(root, Phase.LOADING, 1)
    with pytest.raises(EngineError, match=r"^'tiny' is not ready after 0 s$"):
        lifecycle.wait(root, "tiny", timeout_s=0)


def test_no_time_to_wait_still_takes_one_look(root: Path) -> None:
    record_job(root, host=ELSEWHERE)
    say(root, Phase.READY)
    assert lifecycle.wait(root, "tiny", timeout_s=0).ready == 1


@pytest.mark.parametrize(
    ("phase", "cause", "result", "said"),
    [
        (Phase.FAILED, "no such file", ("error", "x"), "failed: no such file"),
        (Phase.READY, None, None, "failed: the job ended: its process ended without a result"),
        (Phase.STOPPED, None, ("success", ""), "was stopped before it was ready"),
    ],
)
def test_waiting_ends_when_a_replica_does(
    root: Path, phase: Phase, cause: str | None, result: tuple[str, str] | None, said: str
) -> None:
    record_job(root, result=result)
    say(root, phase, cause=cause)
    seen: list[Service] = []
    with pytest.raises(EngineError, match=f"^replica 0 of 'tiny' {said}$"):
        lifecycle.wait(root, "tiny", tell=seen.append)
    assert [one.replicas[0].phase in OVER for one in seen] == [True]


def test_stopping_what_ended_removes_its_records(root: Path) -> None:
    record_job(root, result=("error", "boom"))
    say(root, Phase.FAILED, cause="no such file")
    directory.new_secret(root, "tiny", 0)
    directory.save_spec(root, replace(SPEC, name="other"))
    lifecycle.stop(root, "tiny")
    assert directory.services(root) == ["other"]
    assert records(root) == ["services/other/spec.json"]


def test_records_of_what_cannot_be_stopped_stay(root: Path) -> None:
    record_job(root, host=ELSEWHERE)
    say(root, Phase.READY)
    before = records(root)
    with pytest.raises(SchedulerError, match=f"runs on {ELSEWHERE}, not on this machine") as caught:
        lifecycle.stop(root, "tiny")
    assert caught.value.hint == f"log in to {ELSEWHERE} to stop it"
    assert records(root) == before
    assert lifecycle.find(root, "tiny").ready == 1


def test_a_job_without_a_record_is_not_waited_for(root: Path) -> None:
    directory.save_spec(root, SPEC)
    with pytest.raises(EngineError, match=r"^replica 0 of 'tiny' failed: no job was submitted$"):
        lifecycle.wait(root, "tiny")
    lifecycle.stop(root, "tiny")
    assert records(root) == []
