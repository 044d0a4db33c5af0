"""The phase of a replica, joined from the scheduler's and the node's reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.model import JobState, JobStatus, Phase
from hpc.state import directory

if TYPE_CHECKING:
    from hpc.model import Endpoint, JobHandle, ServiceSpec

OVER = {Phase.STOPPED, Phase.FAILED}
NO_ANSWER = JobStatus(JobState.UNKNOWN, reason="the scheduler does not answer")


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """The state of a replica, from the node's and the scheduler's reports.

    Attributes:
        number: number of the replica, from 0.
        phase: the phase from both reports.
        note: reason why the replica is not ready, or None.
        job: the replica's job; None without a submission.
        status: the scheduler's report.
        endpoint: the node's report, or None.
    """

    number: int
    phase: Phase
    note: str | None
    job: JobHandle | None
    status: JobStatus
    endpoint: Endpoint | None

    @property
    def ended(self) -> bool:
        """Whether the job serves no more, by Slurm's word or by the node's during Slurm's clean-up.

        Slurm cleans up for hours where a process cannot be killed or a node is down.
        """
        if self.job is None or self.status.state.over:
            return True
        own = self.endpoint if of_this_run(self.endpoint, self.job, self.status) else None
        return self.status.state is JobState.ENDING and own is not None and own.phase in OVER


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its replicas."""

    spec: ServiceSpec
    replicas: tuple[ReplicaView, ...]

    @property
    def ready(self) -> int:
        """The number of replicas that answer requests."""
        return sum(replica.phase is Phase.READY for replica in self.replicas)


def join_phase(
    job: JobHandle | None, status: JobStatus, endpoint: Endpoint | None, *, now: float
) -> tuple[Phase, str | None]:
    """Return the phase joined from the scheduler's and the node's reports, and a reason.

    Args:
        job: the replica's job.
        status: the scheduler's report.
        endpoint: the node's last report.
        now: Unix time.

    Returns:
        The phase, and why it is not ready or may not be, or None.
    """
    if job is None:
        return Phase.FAILED, "no job was submitted"
    status = doubted(status, job, endpoint, now=now)
    own = endpoint if of_this_run(endpoint, job, status) else None
    if status.state is JobState.PENDING:
        return Phase.QUEUED, _waits(status, now)
    if status.state in {JobState.RUNNING, JobState.UNKNOWN}:
        return _alive(status, own, now)
    if status.state is JobState.ENDING:
        failed = own if own is not None and own.phase is Phase.FAILED else None
        return (Phase.FAILED, failed.cause) if failed else (Phase.DRAINING, _left(own))
    return _over(status, own)


def doubted(
    status: JobStatus, job: JobHandle, endpoint: Endpoint | None, *, now: float
) -> JobStatus:
    """Return the scheduler's report; UNKNOWN for a GONE job with a fresh heartbeat of the node.

    Args:
        status: the scheduler's report.
        job: the replica's job.
        endpoint: the node's last report.
        now: Unix time.
    """
    if status.state is not JobState.GONE or endpoint is None:
        return status
    writes = endpoint.phase not in OVER and abs(now - endpoint.beat_at) <= directory.STALE_S
    if not writes or not of_this_run(endpoint, job, status):
        return status
    age = max(0.0, now - endpoint.beat_at)
    return JobStatus(
        JobState.UNKNOWN,
        reason=f"Slurm does not know the job, but its node wrote {age:.0f} s ago",
    )


def of_this_run(endpoint: Endpoint | None, job: JobHandle, status: JobStatus) -> bool:
    """Return whether an endpoint record is of the job's present run, not of an earlier run.

    The scheduler's answer may be older than the node's new run; the newer run counts.

    Args:
        endpoint: what the node last said.
        job: the replica's job.
        status: what the scheduler says of it.
    """
    if endpoint is None or endpoint.job_id != job.job_id:
        return False
    if endpoint.restarts is None or status.restarts is None:
        return True
    return endpoint.restarts >= status.restarts


def _waits(status: JobStatus, now: float) -> str | None:
    """Return the reason of a job's wait and the expected start, which is an upper bound."""
    if status.start_at is None or status.start_at <= now:
        return status.reason
    minutes = max(1, round((status.start_at - now) / 60))
    expected = f"expected to start within {minutes // 60}h{minutes % 60:02d}m"
    return f"{status.reason}; {expected}" if status.reason else expected


def _alive(status: JobStatus, own: Endpoint | None, now: float) -> tuple[Phase, str | None]:
    if own is None:
        quiet = status.state is JobState.UNKNOWN
        return (Phase.QUEUED if quiet else Phase.STARTING), status.reason
    notes = [own.cause] if own.cause else []
    if status.state is JobState.UNKNOWN:
        notes.append(status.reason or "the scheduler does not answer")
    if now - own.beat_at > directory.STALE_S and own.phase not in OVER:
        notes.append(f"no heartbeat for {now - own.beat_at:.0f} s")
    # A node that was told to stop cannot know whether Slurm is about to requeue the job: only the
    # scheduler says over.
    if own.phase is Phase.STOPPED:
        return Phase.DRAINING, "; ".join(filter(None, [_left(own), *notes]))
    return own.phase, "; ".join(notes) or None


def _left(own: Endpoint | None) -> str | None:
    """Return the note of a replica with a stopped node and a living job, or None."""
    stopped = own is not None and own.phase is Phase.STOPPED
    return "its node has stopped, and Slurm ends or requeues the job" if stopped else None


def _over(status: JobStatus, own: Endpoint | None) -> tuple[Phase, str | None]:
    if own is not None and own.phase is Phase.FAILED:
        return Phase.FAILED, own.cause
    if own is not None and own.phase is Phase.STOPPED:
        return Phase.STOPPED, status.reason
    if status.state is JobState.DONE:
        return Phase.STOPPED, status.reason
    reason = status.reason or "the job left the queue and said nothing"
    return Phase.FAILED, f"the job ended: {reason}" if status.reason else reason
