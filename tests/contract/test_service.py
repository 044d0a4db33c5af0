"""Services whose jobs are real processes: all or none, refused twice, ended or kept on record."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hpc.config import Config, Site
from hpc.errors import ConfigError, EngineError, SchedulerError, StateError, SubmitError
from hpc.model import Endpoint, JobState, Phase, Resources, ServiceSpec
from hpc.services import lifecycle
from hpc.state import directory
from tests.fakes.slurm import FakeSlurm
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
HELD = ServiceSpec(
    name="tiny",
    engine="llamacpp",
    server="llama-cpp-python",
    model="org/tiny-GGUF:tiny.gguf",
    container="none",
    python="/no/such/python",
    replicas=3,
    resources=Resources(mem_mb=100, time_min=5, extra={"hold": ""}),
)
"""Its jobs wait until somebody lets them go, so that nothing has to be served."""
FREE = replace(HELD, replicas=1, resources=Resources(mem_mb=100, time_min=5))
"""Its job runs at once, and finds no engine."""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    made = FakeSlurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield made
    made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return directory.home(str(tmp_path / "state"))


def submit(
    root: Path, spec: ServiceSpec, cluster: Literal["slurm", "local"] = "slurm"
) -> ServiceSpec:
    config = Config(root, None, {spec.name: spec}, (), Site())
    return lifecycle.submit(config, spec.name, cluster=cluster)


def queue(fake: FakeSlurm) -> list[str]:
    return [job["state"] for job in fake.jobs()]


def ids(root: Path) -> list[str]:
    found = (directory.load_job(root, "tiny", number) for number in range(HELD.replicas))
    return [job.job_id for job in found if job is not None]


def test_every_replica_gets_a_job_and_one_squeue_tells_all(fake: FakeSlurm, root: Path) -> None:
    for name in ("tiny", "other"):
        submit(root, replace(HELD, name=name))
    assert queue(fake) == ["PENDING"] * 6
    assert ids(root) == ["1", "2", "3"]
    before = len(fake.calls("squeue"))
    other, tiny = lifecycle.look(root)
    assert len(fake.calls("squeue")) - before == 1
    assert (other.spec.name, tiny.spec) == ("other", HELD)
    assert {r.phase for r in (*other.replicas, *tiny.replicas)} == {Phase.QUEUED}
    assert tiny.replicas[2].job == directory.load_job(root, "tiny", 2)


def test_a_refusal_midway_cancels_what_was_submitted(fake: FakeSlurm, root: Path) -> None:
    fake.set(max_submit=2)
    with pytest.raises(SubmitError) as caught:
        submit(root, HELD)
    assert str(caught.value) == (
        "Slurm refused the job: job violates accounting/QOS policy (job submit limit, user's size "
        "and/or time limits) (AssocMaxSubmitJobLimit)"
    )
    assert directory.services(root) == []
    until_over(fake, 2)


def until_over(fake: FakeSlurm, count: int) -> None:
    """Wait until all of so many jobs were cancelled."""
    deadline = time.monotonic() + PATIENCE_S
    while queue(fake) != ["CANCELLED"] * count:
        assert time.monotonic() < deadline, queue(fake)
        time.sleep(0.05)


def test_a_record_that_cannot_be_written_takes_its_job_back(fake: FakeSlurm, root: Path) -> None:
    folder = directory.service_dir(root, "tiny")
    folder.mkdir(parents=True)
    (folder / "replicas").write_text("a file where a folder should be")
    with pytest.raises(StateError, match=r"^cannot write .*/replicas/0/job.json: Not a directory"):
        submit(root, HELD)
    assert not folder.exists()
    until_over(fake, 1)


def test_a_service_that_waits_is_not_submitted_again(fake: FakeSlurm, root: Path) -> None:
    submit(root, HELD)
    with pytest.raises(ConfigError, match=r"^the service 'tiny' runs already$"):
        submit(root, HELD)
    assert queue(fake) == ["PENDING"] * 3
    assert ids(root) == ["1", "2", "3"]


def test_a_service_whose_jobs_ended_is_submitted_anew(fake: FakeSlurm, root: Path) -> None:
    submit(root, HELD)
    for job_id in ids(root):
        fake.change(job_id, cancelled=True)
    until_over(fake, 3)
    assert lifecycle.find(root, "tiny").replicas[0].note == "the job ended: cancelled"
    submit(root, replace(HELD, replicas=2))
    assert ids(root) == ["4", "5"]


def test_without_an_answer_everything_stays(fake: FakeSlurm, root: Path) -> None:
    submit(root, HELD)
    fake.set(controller="down")
    found = lifecycle.find(root, "tiny")
    assert {r.status.state for r in found.replicas} == {JobState.UNKNOWN}
    assert "squeue" in str(found.replicas[0].note)
    with pytest.raises(ConfigError, match="runs already"):
        submit(root, HELD)
    with pytest.raises(SchedulerError):
        lifecycle.stop(root, "tiny")
    assert ids(root) == ["1", "2", "3"]
    fake.set(controller="up")
    assert queue(fake) == ["PENDING"] * 3
    lifecycle.stop(root, "tiny")
    assert directory.services(root) == []
    until_over(fake, 3)


def test_records_stay_until_the_jobs_are_over(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped keeper is a job that Slurm was told to end, and that does not."""
    monkeypatch.setattr(lifecycle, "STOP_PATIENCE_S", 1.0)
    submit(root, HELD)
    fake.change("2", state="COMPLETING")
    with frozen(fake, "2"), pytest.raises(SchedulerError) as caught:
        lifecycle.stop(root, "tiny")
    assert str(caught.value) == "jobs 2 of 'tiny' have not ended; its records stay"
    assert ids(root) == ["1", "2", "3"]
    lifecycle.stop(root, "tiny")
    assert directory.services(root) == []
    assert queue(fake) == ["CANCELLED"] * 3


@contextmanager
def frozen(fake: FakeSlurm, job_id: str) -> Iterator[None]:
    """Let a job stay as it is for a while."""
    keeper = fake.job(job_id)["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_waiting_follows_a_job_to_the_cause_of_its_failure(fake: FakeSlurm, root: Path) -> None:
    submit(root, FREE)
    phases: list[Phase] = []
    with pytest.raises(EngineError) as caught:
        lifecycle.wait(
            root, "tiny", timeout_s=PATIENCE_S, tell=lambda s: phases.append(s.replicas[0].phase)
        )
    assert str(caught.value) == (
        "replica 0 of 'tiny' failed: /no/such/python is not installed on this machine, "
        "or not on PATH"
    )
    assert phases[-1] is Phase.FAILED
    assert set(phases[:-1]) <= {Phase.QUEUED, Phase.STARTING}
    assert directory.load_secret(root, "tiny", 0) is None
    lifecycle.stop(root, "tiny")
    assert directory.services(root) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"setup": ("module load apptainer",)},
            "a setup line of the job failed: module load apptainer (module: command not found)",
        ),
        ({"setup": ("exec /opt/gone/python",)}, "/opt/gone/python: No such file or directory"),
        ({"tmp": "/proc/none"}, "tmp of tiny: cannot use /proc/none: No such file or directory"),
        ({"tmp": "$NOT_OF_THIS_NODE"}, "tmp of tiny: $NOT_OF_THIS_NODE is $NOT_OF_THIS_NODE on"),
    ],
)
def test_a_job_that_dies_before_its_engine_tells_its_last_line(
    fake: FakeSlurm, root: Path, changes: dict[str, Any], told: str
) -> None:
    submit(root, replace(FREE, **changes))
    with pytest.raises(EngineError) as caught:
        lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S)
    assert told in str(caught.value)
    note = lifecycle.find(root, "tiny").replicas[0].note
    assert note is not None
    assert told in note


def test_waiting_ends_when_the_job_is_cancelled(fake: FakeSlurm, root: Path) -> None:
    submit(root, replace(HELD, replicas=1))
    fake.change("1", cancelled=True)
    until_state(fake, "1", "CANCELLED")
    with pytest.raises(
        EngineError, match=r"^replica 0 of 'tiny' failed: the job ended: cancelled$"
    ):
        lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S)


def test_nobody_waits_for_a_job_that_never_starts(fake: FakeSlurm, root: Path) -> None:
    submit(root, replace(HELD, replicas=2))
    held = r"^replica 0 of 'tiny' waits in vain \(job 1\): held by its user \(JobHeldUser\)$"
    with pytest.raises(SchedulerError, match=held) as caught:
        lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S)
    assert "scontrol release 1" in str(caught.value.hint)
    fake.change("1", reason="Priority")
    fake.change("2", reason="QOSMaxWallDurationPerJobLimit")
    with pytest.raises(SchedulerError, match=r"^replica 1 .* over the limit of its QOS"):
        lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S)
    assert lifecycle.find(root, "tiny").replicas[1].phase is Phase.QUEUED, "its job stays"


def test_waiting_goes_on_while_a_requeued_job_has_said_nothing_new(
    fake: FakeSlurm, root: Path
) -> None:
    """The last run's node said that it stopped; Slurm says that the job runs again."""
    submit(root, replace(FREE, setup=("sleep 60",)))
    until_state(fake, "1", "RUNNING")
    said = Endpoint("tiny", 0, "tiny", "fake1", 0, Phase.STOPPED, "1", None, time.time())
    directory.save_endpoint(root, replace(said, restarts=0))
    fake.change("1", requeue=True)
    deadline = time.monotonic() + PATIENCE_S
    while fake.job("1")["restarts"] == 0:
        assert lifecycle.find(root, "tiny").replicas[0].phase is not Phase.FAILED
        assert time.monotonic() < deadline
    until_state(fake, "1", "RUNNING")
    phases: list[Phase] = []
    with pytest.raises(EngineError, match=r"^'tiny' is not ready after 2 s$"):
        lifecycle.wait(root, "tiny", timeout_s=2, tell=lambda s: phases.append(s.replicas[0].phase))
    assert set(phases) == {Phase.STARTING}
    directory.save_endpoint(root, replace(said, phase=Phase.READY, restarts=1))
    assert lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S).ready == 1


def until_state(fake: FakeSlurm, job_id: str, wanted: str) -> None:
    """Wait for a state of a job."""
    deadline = time.monotonic() + PATIENCE_S
    while fake.job(job_id)["state"] != wanted:
        assert time.monotonic() < deadline, fake.job(job_id)
        time.sleep(0.05)


def test_waiting_has_an_end(fake: FakeSlurm, root: Path) -> None:
    later = Resources(mem_mb=100, time_min=5, extra={"begin": "2099-01-01T00:00:00"})
    submit(root, replace(HELD, resources=later))
    started = time.monotonic()
    with pytest.raises(EngineError, match=r"^'tiny' is not ready after 1.5 s$"):
        lifecycle.wait(root, "tiny", timeout_s=1.5)
    assert time.monotonic() - started >= 1.5
    assert queue(fake) == ["PENDING"] * 3


def test_here_too_all_replicas_start_or_none(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second replica finds no GPU left on this machine, where the first has a job already."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    spec = replace(FREE, replicas=2, resources=Resources(gpus=1))
    with pytest.raises(SubmitError, match=r"^replica 1 needs 1 GPU\(s\) of its own"):
        submit(root, spec, "local")
    assert directory.services(root) == []
    assert working_for(root) == []
    assert fake.jobs() == []


def working_for(root: Path) -> list[str]:
    """Return the command lines of all processes that name a state directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) in line:
            found.append(line)
    return found
