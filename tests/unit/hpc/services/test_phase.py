"""One phase out of two words: the scheduler's and the node's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc.model import Endpoint, JobHandle, JobState, JobStatus, Phase, ServiceSpec
from hpc.services.phase import NO_ANSWER, ReplicaView, Service, doubted, join_phase
from hpc.state import directory

NOW = 10_000.0
JOB = JobHandle("17", "slurm", "/jobs")
SAID = Endpoint(
    service="mistral",
    replica=0,
    model="mistral",
    host="node7",
    port=40123,
    phase=Phase.READY,
    job_id="17",
    ends_at=None,
    beat_at=NOW - 1,
)
ON_NODE = [
    Phase.STARTING,
    Phase.LOADING,
    Phase.WARMING,
    Phase.READY,
    Phase.DRAINING,
    Phase.STOPPED,
    Phase.FAILED,
]
"""What a node says of itself while and after it runs."""


def judge(
    job_state: JobState, said: Endpoint | None, reason: str | None = None
) -> tuple[Phase, str | None]:
    return join_phase(JOB, JobStatus(job_state, reason=reason), said, now=NOW)


TABLE: dict[JobState, tuple[Phase, ...]] = {
    JobState.PENDING: (Phase.QUEUED,) * 7,
    JobState.RUNNING: (*ON_NODE[:5], Phase.DRAINING, Phase.FAILED),
    JobState.UNKNOWN: (*ON_NODE[:5], Phase.DRAINING, Phase.FAILED),
    JobState.ENDING: (*(Phase.DRAINING,) * 6, Phase.FAILED),
    JobState.DONE: (*(Phase.STOPPED,) * 6, Phase.FAILED),
    JobState.FAILED: (*(Phase.FAILED,) * 5, Phase.STOPPED, Phase.FAILED),
    JobState.GONE: (*ON_NODE[:5], Phase.STOPPED, Phase.FAILED),
}
"""The verdict for each word of the scheduler, by the node's word in the order of ON_NODE."""

SILENT: dict[JobState, Phase] = {
    JobState.PENDING: Phase.QUEUED,
    JobState.RUNNING: Phase.STARTING,
    JobState.UNKNOWN: Phase.QUEUED,
    JobState.ENDING: Phase.DRAINING,
    JobState.DONE: Phase.STOPPED,
    JobState.FAILED: Phase.FAILED,
    JobState.GONE: Phase.FAILED,
}
"""The verdict where the node has said nothing."""


def test_the_tables_cover_every_state() -> None:
    assert set(TABLE) == set(SILENT) == set(JobState)
    assert {*ON_NODE, Phase.QUEUED} == set(Phase)


@pytest.mark.parametrize("job_state", JobState)
@pytest.mark.parametrize("said", ON_NODE)
def test_both_words_make_one_phase(job_state: JobState, said: Phase) -> None:
    expected = TABLE[job_state][ON_NODE.index(said)]
    assert judge(job_state, replace(SAID, phase=said))[0] is expected


@pytest.mark.parametrize("job_state", JobState)
def test_a_silent_node_leaves_it_to_the_scheduler(job_state: JobState) -> None:
    assert judge(job_state, None)[0] is SILENT[job_state]


@pytest.mark.parametrize("job_state", JobState)
@pytest.mark.parametrize("said", ON_NODE)
def test_what_an_earlier_job_said_counts_for_nothing(job_state: JobState, said: Phase) -> None:
    old = replace(SAID, job_id="16", phase=said, cause="out of memory")
    assert judge(job_state, old, "why") == judge(job_state, None, "why")


@pytest.mark.parametrize("job_state", JobState)
@pytest.mark.parametrize("said", ON_NODE)
def test_what_a_run_before_a_requeue_said_counts_for_nothing(
    job_state: JobState, said: Phase
) -> None:
    old = replace(SAID, phase=said, cause="out of memory", restarts=1)
    status = JobStatus(job_state, reason="why", restarts=2)
    assert join_phase(JOB, status, old, now=NOW) == join_phase(JOB, status, None, now=NOW)


@pytest.mark.parametrize(
    ("said", "asked"), [(0, 0), (2, 2), (2, 1), (None, 2), (2, None), (None, None)]
)
def test_a_node_is_believed_unless_its_run_is_known_to_be_over(
    said: int | None, asked: int | None
) -> None:
    status = JobStatus(JobState.RUNNING, restarts=asked)
    found = join_phase(JOB, status, replace(SAID, restarts=said), now=NOW)
    assert found == (Phase.READY, None)


def test_a_replica_without_a_job_has_failed() -> None:
    found = join_phase(None, JobStatus(JobState.GONE), SAID, now=NOW)
    assert found == (Phase.FAILED, "no job was submitted")


@pytest.mark.parametrize("said", [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.DRAINING])
def test_no_answer_keeps_alive_what_lived(said: Phase) -> None:
    phase, note = join_phase(JOB, NO_ANSWER, replace(SAID, phase=said), now=NOW)
    assert (phase, note) == (said, "the scheduler does not answer")
    assert JobState.UNKNOWN.alive


def test_no_answer_without_a_reason_is_still_told() -> None:
    assert judge(JobState.UNKNOWN, SAID) == (Phase.READY, "the scheduler does not answer")


def test_a_ready_replica_has_nothing_to_add() -> None:
    assert judge(JobState.RUNNING, SAID) == (Phase.READY, None)


@pytest.mark.parametrize(
    ("age", "quiet"), [(directory.STALE_S, False), (directory.STALE_S + 1, True)]
)
def test_a_stale_heartbeat_is_a_note_and_no_end(age: float, *, quiet: bool) -> None:
    phase, note = judge(JobState.RUNNING, replace(SAID, beat_at=NOW - age))
    assert phase is Phase.READY
    assert note == (f"no heartbeat for {age:.0f} s" if quiet else None)


def test_a_stale_heartbeat_and_no_answer_are_both_told() -> None:
    found = join_phase(JOB, NO_ANSWER, replace(SAID, beat_at=NOW - 100), now=NOW)
    assert found == (Phase.READY, "the scheduler does not answer; no heartbeat for 100 s")


LEFT = "its node has stopped, and Slurm ends or requeues the job"


@pytest.mark.parametrize(
    ("phase", "told"),
    [(Phase.STOPPED, (Phase.DRAINING, LEFT)), (Phase.FAILED, (Phase.FAILED, None))],
)
def test_who_has_ended_owes_no_heartbeat(phase: Phase, told: tuple[Phase, str | None]) -> None:
    """A job may go back to the queue after its node has stopped: only Slurm says over."""
    old = replace(SAID, phase=phase, beat_at=0.0)
    assert judge(JobState.RUNNING, old) == told


@pytest.mark.parametrize("said", [Phase.STARTING, Phase.LOADING, Phase.READY, Phase.DRAINING])
def test_a_job_that_slurm_has_lost_lives_as_long_as_its_node_writes(said: Phase) -> None:
    gone = JobStatus(JobState.GONE)
    found = doubted(gone, JOB, replace(SAID, phase=said), now=NOW)
    assert (found.state, found.reason) == (
        JobState.UNKNOWN,
        "Slurm does not know the job, but its node wrote 1 s ago",
    )
    for other in (
        replace(SAID, phase=said, beat_at=NOW - directory.STALE_S - 1),
        replace(SAID, phase=said, job_id="16"),
        replace(SAID, phase=Phase.STOPPED),
        None,
    ):
        assert doubted(gone, JOB, other, now=NOW) is gone


@pytest.mark.parametrize(
    ("job_state", "said", "ended"),
    [
        (JobState.ENDING, Phase.STOPPED, True),
        (JobState.ENDING, Phase.FAILED, True),
        (JobState.ENDING, Phase.DRAINING, False),
        (JobState.ENDING, None, False),
        (JobState.RUNNING, Phase.STOPPED, False),
        (JobState.UNKNOWN, Phase.STOPPED, False),
        (JobState.PENDING, Phase.STOPPED, False),
        (JobState.DONE, Phase.READY, True),
    ],
)
def test_a_name_is_free_once_slurm_says_over_or_ends_what_the_node_has_left(
    job_state: JobState, said: Phase | None, *, ended: bool
) -> None:
    endpoint = replace(SAID, phase=said) if said else None
    view = ReplicaView(0, Phase.READY, None, JOB, JobStatus(job_state), endpoint)
    assert view.ended is ended
    before = replace(SAID, phase=said, job_id="16") if said else None
    assert replace(view, endpoint=before).ended is (job_state is JobState.DONE)


@pytest.mark.parametrize("job_state", [s for s in JobState if s is not JobState.PENDING])
def test_a_failed_replica_gives_its_own_cause(job_state: JobState) -> None:
    dead = replace(SAID, phase=Phase.FAILED, cause="out of GPU memory")
    phase, note = judge(job_state, dead, None)
    assert phase is Phase.FAILED
    assert note is not None
    assert note.startswith("out of GPU memory")


@pytest.mark.parametrize(
    ("job_state", "reason", "note"),
    [
        (JobState.FAILED, "out of memory", "the job ended: out of memory"),
        (JobState.FAILED, None, "the job left the queue and said nothing"),
    ],
)
def test_a_job_that_died_under_a_ready_replica_says_why(
    job_state: JobState, reason: str | None, note: str
) -> None:
    assert judge(job_state, SAID, reason) == (Phase.FAILED, note)


@pytest.mark.parametrize(
    ("reason", "start_at", "note"),
    [
        ("Priority", None, "Priority"),
        (None, None, None),
        ("Resources", NOW + 2 * 3600 + 5 * 60, "Resources; expected to start within 2h05m"),
        ("Resources", NOW + 1, "Resources; expected to start within 0h01m"),
        (None, NOW + 60, "expected to start within 0h01m"),
        ("Resources", NOW - 1, "Resources"),
    ],
)
def test_a_waiting_job_says_why_and_how_long(
    reason: str | None, start_at: float | None, note: str | None
) -> None:
    status = JobStatus(JobState.PENDING, reason=reason, start_at=start_at)
    assert join_phase(JOB, status, None, now=NOW) == (Phase.QUEUED, note)


def test_a_requeued_job_waits_whatever_its_last_run_said() -> None:
    assert judge(JobState.PENDING, SAID, "BeginTime") == (Phase.QUEUED, "BeginTime")


def test_a_service_counts_who_is_ready() -> None:
    spec = ServiceSpec("mistral", "vllm", "vllm", "m", replicas=3)
    phases = (Phase.READY, Phase.LOADING, Phase.READY)
    status = JobStatus(JobState.RUNNING)
    replicas = tuple(ReplicaView(n, p, None, JOB, status, SAID) for n, p in enumerate(phases))
    assert Service(spec, replicas).ready == 2
