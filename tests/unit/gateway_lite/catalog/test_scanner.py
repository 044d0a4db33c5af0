"""What the state directory says, and what the gateway makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway_lite.catalog.models import identity, mark, phase_of
from gateway_lite.catalog.scanner import Scanner
from hpc.config import Backend
from hpc.model import Endpoint, JobHandle, JobState, JobStatus, Phase, ServiceSpec
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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
    return directory.home(str(tmp_path))


@pytest.mark.parametrize(
    ("phase", "age", "expected"),
    [
        (Phase.READY, 0, Phase.READY),
        (Phase.READY, directory.STALE_S, Phase.READY),
        (Phase.READY, directory.STALE_S + 1, Phase.STOPPED),
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
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, READY)
    scanner = Scanner(root)
    model = scanner.scan(NOW).models["m"]
    assert (model.phase, model.replicas) == (Phase.READY, ())
    secret = directory.new_secret(root, "m", 0)
    (replica,) = scanner.scan(NOW).models["m"].replicas
    assert (replica.url, replica.secret, replica.slots) == ("http://node1:4000", secret, 2)
    assert replica.name == "m/0"


def test_a_certificate_in_the_record_makes_the_address_one_of_tls(root: Path) -> None:
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, replace(READY, certificate="PEM"))
    directory.new_secret(root, "m", 0)
    (replica,) = Scanner(root).scan(NOW).models["m"].replicas
    assert (replica.url, replica.certificate) == ("https://node1:4000", "PEM")
    assert replica.peer == (replica.url, replica.secret, "PEM", ())


def test_the_best_phase_speaks_for_the_model(root: Path) -> None:
    directory.save_spec(root, replace(SPEC, replicas=3))
    scanner = Scanner(root)
    assert scanner.scan(NOW).models["m"].phase is Phase.QUEUED
    directory.save_endpoint(root, replace(READY, replica=0, phase=Phase.FAILED))
    directory.save_endpoint(root, replace(READY, replica=1, phase=Phase.LOADING))
    model = scanner.scan(NOW).models["m"]
    assert (model.phase, model.asked) == (Phase.LOADING, 3)


def test_a_secret_is_read_again_when_it_was_refused_or_the_job_is_new(root: Path) -> None:
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, READY)
    old = directory.new_secret(root, "m", 0)
    scanner = Scanner(root)

    def secret(refused: tuple[str, ...] = ()) -> str | None:
        return scanner.scan(NOW, refused).models["m"].replicas[0].secret

    assert secret() == old
    new = directory.new_secret(root, "m", 0)
    assert secret() == old
    assert secret((identity(READY),)) == new
    newest = directory.new_secret(root, "m", 0)
    directory.save_endpoint(root, replace(READY, job_id="8"))
    assert secret() == newest


def test_one_failed_reading_changes_nothing_and_two_do(root: Path) -> None:
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, READY)
    directory.new_secret(root, "m", 0)
    scanner = Scanner(root)
    assert scanner.scan(NOW).models["m"].replicas
    (directory.replica_dir(root, "m", 0) / "endpoint.json").write_text("{")
    assert scanner.scan(NOW).models["m"].replicas
    assert scanner.scan(NOW).models["m"].phase is Phase.QUEUED


def test_a_spec_that_cannot_be_read_keeps_the_service_and_a_folder_gone_ends_it(
    root: Path,
) -> None:
    directory.save_spec(root, SPEC)
    scanner = Scanner(root)
    scanner.scan(NOW)
    (directory.service_dir(root, "m") / "spec.json").write_text("")
    assert "m" in scanner.scan(NOW).models
    directory.drop_service(root, "m")
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
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, READY)
    directory.new_secret(root, "m", 0)
    models = Scanner(root, backends).scan(NOW).models
    assert list(models) == ["a", "m"]
    assert models["a"].replicas[0].url == "http://h:1"
    assert models["a"].replicas[0].token is None
    assert [replica.name for replica in models["m"].replicas] == ["m", "m/0"]
    assert models["m"].replicas[0].token == "k"


def test_an_ipv6_host_makes_an_address(root: Path) -> None:
    directory.save_spec(root, SPEC)
    directory.save_endpoint(root, replace(READY, host="fd00::1"))
    directory.new_secret(root, "m", 0)
    assert Scanner(root).scan(NOW).models["m"].replicas[0].url == "http://[fd00::1]:4000"


class Slurm:
    """Answers what the test says, and notes what it was asked."""

    def __init__(self, **answers: JobStatus) -> None:
        self.answers = {name.removeprefix("job"): one for name, one in answers.items()}
        self.asked: list[list[str]] = []

    def look(self, jobs: Sequence[JobHandle]) -> Mapping[str, JobStatus]:
        self.asked.append([job.job_id for job in jobs])
        return {f"/jobs/{job_id}": one for job_id, one in self.answers.items()}


def submitted(root: Path, *jobs: str) -> None:
    directory.save_spec(root, replace(SPEC, replicas=len(jobs)))
    for number, job in enumerate(jobs):
        directory.save_job(root, "m", number, JobHandle(job, "slurm", "/jobs"))
        directory.new_secret(root, "m", number)


def test_the_scheduler_is_asked_for_those_that_do_not_speak(root: Path) -> None:
    submitted(root, "7", "8", "9")
    directory.save_endpoint(root, READY)
    directory.save_endpoint(root, replace(READY, replica=1, job_id="8", beat_at=NOW - 100))
    slurm = Slurm(job9=JobStatus(JobState.PENDING, reason="Priority", start_at=NOW + 60))
    model = Scanner(root, (), slurm.look).scan(NOW).models["m"]
    assert slurm.asked == [["8", "9"]]
    assert model.phases == (Phase.READY, Phase.STOPPED, Phase.QUEUED)
    assert [one.job_id for one in model.members] == ["7", "8", "9"]
    assert model.members[2].start_at == NOW + 60
    assert model.stale == 1
    assert [one.job_id for one in model.endpoints] == ["7", "8"]


def test_a_silent_replica_whose_job_runs_serves_where_no_other_does(root: Path) -> None:
    submitted(root, "7", "8")
    silent = replace(READY, replica=1, job_id="8", port=4001, beat_at=NOW - 100)
    directory.save_endpoint(root, READY)
    directory.save_endpoint(root, silent)
    running = JobStatus(JobState.RUNNING)
    slurm = Slurm(job7=running, job8=running)
    scanner = Scanner(root, (), slurm.look)

    def used() -> list[str]:
        return [replica.name for replica in scanner.scan(NOW).models["m"].replicas]

    assert used() == ["m/0"]
    directory.save_endpoint(root, replace(READY, beat_at=NOW - 100))
    assert used() == ["m/0", "m/1"]
    slurm.answers["7"] = JobStatus(JobState.ENDING)
    assert used() == ["m/1"]
    slurm.answers["8"] = JobStatus(JobState.GONE)
    assert used() == []
    slurm.answers.clear()
    assert used() == []
    directory.save_endpoint(root, silent)
    directory.save_endpoint(root, READY)
    assert used() == ["m/0"]


def test_a_model_is_the_same_while_what_is_served_is(root: Path) -> None:
    directory.save_spec(root, SPEC)
    backends = [
        Backend("a", "vllm", "http://h:1"),
        Backend("b", "vllm", "http://h:1", revision="r"),
    ]
    models = Scanner(root, backends).scan(NOW).models
    marks = {models["m"].identity, models["b"].identity}
    assert models["a"].identity == ""
    assert "" not in marks
    assert len(marks) == 2
    assert (models["m"].engine, models["m"].revision) == ("llamacpp", None)
    assert (models["b"].engine, models["b"].revision) == ("vllm", "r")
    assert mark(replace(SPEC, replicas=3, env={"A": "b"})) == mark(SPEC)
    for other in (
        replace(SPEC, model="/other.gguf"),
        replace(SPEC, revision="r"),
        replace(SPEC, engine_args={"n": 1}),
    ):
        assert mark(other) != mark(SPEC)


def test_a_service_with_static_servers_is_of_one_kind_only_if_they_are(root: Path) -> None:
    directory.save_spec(root, SPEC)
    model = Scanner(root, [Backend("m", "vllm", "http://h:1", revision="r")]).scan(NOW).models["m"]
    assert (model.engine, model.revision, model.identity) == (None, None, "")
    assert model.phases == (Phase.READY, Phase.QUEUED)
    assert model.asked == 2


def test_adapters_are_models_at_the_replicas_of_their_base(root: Path) -> None:
    directory.save_spec(root, replace(SPEC, adapters=("sql", "other", "free")))
    directory.save_spec(root, replace(SPEC, name="other"))
    directory.save_endpoint(root, READY)
    directory.new_secret(root, "m", 0)

    catalog = Scanner(root, [Backend("free", "vllm", "http://a")]).scan(NOW)

    base, adapter = catalog.models["m"], catalog.models["sql"]
    assert (adapter.name, adapter.base, adapter.replicas) == ("sql", "m", base.replicas)
    assert adapter.identity not in ("", base.identity)
    assert (catalog.models["other"].base, catalog.models["free"].base) == (None, None)
    assert [one.url for one in catalog.models["free"].replicas] == ["http://a"]
    assert catalog.bases() == {"sql": "m"}
