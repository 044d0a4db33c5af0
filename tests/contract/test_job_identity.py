"""Which job is ours: over clusters that share a home, lost answers, notes of a site, reused ids."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc.batch import control as batch_control
from hpc.batch.model import BatchWorker
from hpc.config import Config, Site
from hpc.errors import ConfigError, SchedulerError, StateError, SubmitError
from hpc.jobs import api as jobs
from hpc.model import Endpoint, JobRequest, JobState, Phase, Resources, ServiceSpec
from hpc.node.replica import serve
from hpc.services import lifecycle
from hpc.slurm import sbatch
from hpc.state import directory
from tests.fakes.slurm import FakeSlurm
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
SPEC = ServiceSpec(
    name="tiny",
    engine="llamacpp",
    server="llama-cpp-python",
    model="org/tiny-GGUF:tiny.gguf",
    container="none",
    python="/no/such/python",
    resources=Resources(mem_mb=100, time_min=5, extra={"hold": ""}),
)
"""Its job waits for ever, so that nothing has to be served."""


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
def other(tmp_path: Path, fake: FakeSlurm) -> Iterator[FakeSlurm]:
    """A second cluster with the same home, which the first knows by the name "other"."""
    made = FakeSlurm.install(tmp_path / "other", cluster="other")
    fake.set(siblings={"other": str(made.folder)})
    yield made
    made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return directory.home(str(tmp_path / "state"))


def submit(root: Path, **extra: str) -> ServiceSpec:
    resources = replace(SPEC.resources, extra={**SPEC.resources.extra, **extra})
    spec = replace(SPEC, resources=resources)
    return lifecycle.submit(Config(root, None, {"tiny": spec}, (), Site()), "tiny", cluster="slurm")


def states(fake: FakeSlurm) -> list[str]:
    return [job["state"] for job in fake.jobs()]


def say(root: Path, phase: Phase, age_s: float = 0.0) -> None:
    """Publish what the replica's node would."""
    job = directory.load_job(root, "tiny", 0)
    assert job is not None
    beat = time.time() - age_s
    told = Endpoint("tiny", 0, "tiny", "fake1", 4000, phase, job.job_id, None, beat)
    directory.save_endpoint(root, told)


def state_of(root: Path) -> JobState:
    return lifecycle.find(root, "tiny").replicas[0].status.state


@pytest.mark.parametrize("by", ["extra", "SLURM_CLUSTERS"])
def test_a_job_on_another_cluster_is_asked_for_and_cancelled_there(
    fake: FakeSlurm, other: FakeSlurm, root: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both clusters give their first job the number 1; one goes down, the other does not."""
    jobs.submit(partial(time.sleep, 1), JobRequest("mine", SPEC.resources), root)
    if by != "extra":
        monkeypatch.setenv(by, "other")
    submit(root, **({"clusters": "other"} if by == "extra" else {}))
    monkeypatch.delenv(by, raising=False)
    fake.set(controller="down")
    assert state_of(root) is JobState.PENDING
    with pytest.raises(ConfigError, match="runs already"):
        submit(root)
    lifecycle.stop(root, "tiny")
    assert (states(fake), states(other)) == (["PENDING"], ["CANCELLED"])
    assert directory.services(root) == []


@pytest.mark.parametrize("theirs", [1])
def test_a_home_that_two_clusters_share_loses_and_cancels_nothing(
    fake: FakeSlurm, other: FakeSlurm, root: Path, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clusters cannot ask each other, and a job of ours there may have the same number."""
    submit(root)
    monkeypatch.setenv("PATH", f"{other.bin}:{os.environ['PATH']}")
    for _ in range(theirs):
        jobs.submit(partial(time.sleep, 1), JobRequest("stranger", SPEC.resources), root)
    found = lifecycle.find(root, "tiny").replicas[0]
    assert found.status.state is JobState.UNKNOWN
    assert "on the cluster fake: Slurm did not answer" in str(found.note)
    with pytest.raises(ConfigError, match="runs already"):
        submit(root)
    with pytest.raises(SchedulerError, match="job 1 is not cancelled: on the cluster fake"):
        lifecycle.stop(root, "tiny")
    assert directory.services(root) == ["tiny"]
    assert (states(fake), states(other)) == (["PENDING"], ["PENDING"] * theirs)


@pytest.mark.parametrize(
    "notes",
    [
        ["Note: this is job 47 of your group"],
        ["47", "Please cite the cluster"],
    ],
)
def test_notes_of_a_site_are_no_job_ids(fake: FakeSlurm, root: Path, notes: list[str]) -> None:
    fake.set(sbatch_notes=notes)
    submit(root)
    job = directory.load_job(root, "tiny", 0)
    assert job is not None
    assert (job.job_id, job.slurm_cluster) == ("1", "fake")
    assert job.name.startswith("hpc-serve-tiny-0-")
    assert fake.job("1")["name"] == job.name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("47\n", [("47", "")]),
        ("47;alpha\n", [("47", "alpha")]),
        ("hello\n47;alpha\nbye 48\n", [("47", "alpha")]),
        ("Submitted batch job 47\n", [("47", "")]),
        ("Submitted batch job 47 on cluster alpha\n", [("47", "alpha")]),
        ("your job 47 waits\n", []),
        ("46\n47\n", [("46", ""), ("47", "")]),
        ("", []),
    ],
)
def test_an_id_stands_alone_on_its_line(text: str, found: list[tuple[str, str]]) -> None:
    assert [(one.job_id, one.cluster) for one in sbatch.ids_in(text)] == found


@pytest.mark.parametrize(
    ("line", "clusters"),
    [
        ("#SBATCH --clusters=other", "other"),
        ("#SBATCH --cluster other", "other"),
        ('#SBATCH --clusters="a,b"', "a,b"),
        ("#SBATCH -M other", "other"),
        ("#SBATCH -Mother", "other"),
        ("#SBATCH --cluster-constraint=x", ""),
        ("# --clusters=other", ""),
    ],
)
def test_the_clusters_of_a_script_are_those_that_sbatch_reads(line: str, clusters: str) -> None:
    assert sbatch._clusters(f"#!/bin/bash\n{line}\n#SBATCH --mem=1\ntrue -M x\n") == clusters


def test_a_squeue_that_shows_nothing_ends_nothing(fake: FakeSlurm, root: Path) -> None:
    submit(root)
    fake.set(controller="empty")
    for phase in (None, Phase.READY):
        if phase is not None:
            say(root, phase)
        job = directory.load_job(root, "tiny", 0)
        assert job is not None
        directory.save_job(root, "tiny", 0, replace(job, submitted_at=0.0))
        assert state_of(root) is JobState.UNKNOWN
        with pytest.raises(ConfigError, match="runs already"):
            submit(root)
        with pytest.raises(SchedulerError, match="job 1 is not cancelled: squeue lists no job"):
            lifecycle.stop(root, "tiny")
    fake.set(controller="up")
    lifecycle.stop(root, "tiny")
    assert states(fake) == ["CANCELLED"]


def test_a_job_that_slurm_forgot_lives_as_long_as_its_node_writes(
    fake: FakeSlurm, root: Path
) -> None:
    submit(root)
    job = directory.load_job(root, "tiny", 0)
    assert job is not None
    directory.save_job(root, "tiny", 0, replace(job, job_id="99", submitted_at=0.0))
    say(root, Phase.READY)
    found = lifecycle.find(root, "tiny").replicas[0]
    assert (found.phase, found.status.state) == (Phase.READY, JobState.UNKNOWN)
    assert "its node wrote" in str(found.note)
    say(root, Phase.READY, age_s=directory.STALE_S + 5)
    assert state_of(root) is JobState.GONE


@pytest.mark.parametrize("away", [False, True])
def test_a_number_that_another_job_bears_is_left_alone(
    fake: FakeSlurm, other: FakeSlurm, root: Path, *, away: bool
) -> None:
    submit(root, **({"clusters": "other"} if away else {}))
    place = other if away else fake
    place.change("1", name="interactive")
    assert state_of(root) is JobState.GONE
    lifecycle.stop(root, "tiny")
    assert states(place) == ["PENDING"]


@pytest.mark.parametrize(("count", "late_s"), [(1, 1), (3, 0)])
def test_a_job_whose_sbatch_got_no_answer_is_found_by_its_name(
    fake: FakeSlurm, root: Path, count: int, late_s: int
) -> None:
    fake.set(sbatch_lost="taken", sbatch_appears_s=late_s)
    made = jobs.submit(
        partial(time.sleep, 1), JobRequest("work", SPEC.resources, count=count), root
    )
    wanted = ["1"] if count == 1 else [f"1_{n}" for n in range(count)]
    assert [job.job_id for job in made] == wanted
    assert len(fake.jobs()) == count
    assert {one.state for one in jobs.statuses(made).values()} == {JobState.PENDING}
    assert sorted(path.name for path in Path(made[0].folder).glob("*.pkl")) == [
        f"{job_id}_submitted.pkl" for job_id in wanted
    ]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"sbatch_lost": "dropped"}, "no job of the name hpc-serve-tiny-0-[0-9a-f]{8} is in"),
        ({"sbatch_lost": "dropped", "controller": "down"}, "send/recv operation; nor does squeue"),
        ({"controller": "down"}, "refused the job: unable to contact slurm controller"),
    ],
)
def test_a_job_that_never_appears_is_told_and_leaves_nothing(
    fake: FakeSlurm,
    root: Path,
    setting: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sbatch, "SEEK_S", 0.0)
    fake.set(**setting)
    with pytest.raises(SubmitError, match=said):
        submit(root)
    assert directory.services(root) == []
    assert fake.jobs() == []


def test_jobs_of_a_failed_submission_stay_on_record_until_they_are_cancelled(
    fake: FakeSlurm, root: Path
) -> None:
    """Slurm takes the first replica's job, and goes away before the second's."""
    spec = replace(SPEC, replicas=2)
    fake.set(down_after=1)
    with pytest.raises(SchedulerError, match="its jobs 1 are not cancelled") as caught:
        lifecycle.submit(Config(root, None, {"tiny": spec}, (), Site()), "tiny", cluster="slurm")
    assert "stop tiny" in str(caught.value.hint)
    assert directory.services(root) == ["tiny"]
    fake.set(controller="up", down_after=0)
    lifecycle.stop(root, "tiny")
    assert states(fake) == ["CANCELLED"]


@pytest.mark.parametrize("action", ["stop", "submit"])
def test_a_job_that_never_ends_completing_frees_the_name_once_its_node_stopped(
    fake: FakeSlurm, root: Path, action: str
) -> None:
    submit(root)
    fake.change("1", state="COMPLETING")
    say(root, Phase.DRAINING)
    with pytest.raises(ConfigError, match="runs already"):
        submit(root)
    say(root, Phase.STOPPED)
    if action == "stop":
        assert lifecycle.stop(root, "tiny") == []
    submit(root)
    job = directory.load_job(root, "tiny", 0)
    assert job is not None
    assert job.job_id == "2"


def test_what_is_forced_to_stop_is_cancelled_and_forgotten(fake: FakeSlurm, root: Path) -> None:
    submit(root)
    assert lifecycle.stop(root, "tiny", force=True) == []
    assert states(fake) == ["CANCELLED"]
    submit(root)
    fake.set(controller="down")
    left = lifecycle.stop(root, "tiny", force=True)
    assert [job.job_id for job in left] == ["2"]
    assert directory.services(root) == []


def test_a_job_that_is_requeued_as_it_loads_is_waited_for(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted: the node stops, Slurm completes the job, and then the job waits again."""
    submit(root)
    seen: list[Phase] = []
    turns = iter([("RUNNING", 0), ("COMPLETING", 0), ("PENDING", 1), ("RUNNING", 1)])

    def turn(service: Any) -> None:
        seen.append(service.replicas[0].phase)
        state, restarts = next(turns, ("RUNNING", 1))
        fake.change("1", state=state, restarts=restarts, start=time.time())
        if len(seen) > 4:
            say(root, Phase.READY)

    fake.change("1", reason="Priority")
    say(root, Phase.STOPPED)
    monkeypatch.setattr(lifecycle, "SCHEDULER_EVERY_S", 0.0)
    lifecycle.wait(root, "tiny", timeout_s=PATIENCE_S, tell=turn)
    assert seen[:4] == [Phase.QUEUED, Phase.DRAINING, Phase.DRAINING, Phase.QUEUED]
    assert seen[-1] is Phase.READY


def test_a_job_that_is_not_the_replicas_serves_nothing(
    fake: FakeSlurm, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten job may start, or be requeued, beside its successor."""
    submit(root)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(StateError, match=r"^replica 0 of 'tiny' is job 1, not 7$"):
        serve(root, "tiny", 0)
    assert directory.load_endpoint(root, "tiny", 0) is None


def test_workers_of_a_batch_are_found_on_their_cluster_and_believed_as_they_write(
    fake: FakeSlurm, other: FakeSlurm, root: Path
) -> None:
    away = replace(SPEC.resources, extra={**SPEC.resources.extra, "clusters": "other"})
    made = jobs.submit(partial(time.sleep, 1), JobRequest("batch-1", away, count=3), root)
    assert {one.state for one in jobs.statuses(made).values()} == {JobState.PENDING}
    lost = replace(made[0], job_id="99_0", submitted_at=0.0)
    worker = BatchWorker("w", "99_0", "fake1", 0.0, time.time())
    for wrote, state in (
        (worker, JobState.UNKNOWN),
        (replace(worker, ended=True), JobState.GONE),
        (replace(worker, beat_at=time.time() - directory.STALE_S - 5), JobState.GONE),
    ):
        assert batch_control._statuses([lost], [wrote])[lost.key].state is state
    jobs.cancel(made)
    assert states(other) == ["CANCELLED"] * 3
