"""Jobs by their ids: status, drain and cancel."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from hpc.errors import CommandError, SchedulerError
from hpc.model import JobState, JobStatus
from hpc.slurm.command import run, said, unanswered
from hpc.slurm.states import array_elements, status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

QUEUE_FIELDS = ("JobArrayID", "State", "StartTime", "EndTime", "NodeList", "exit_code", "Reason")
ACCOUNTING_FIELDS = ("JobID", "State", "Start", "End", "NodeList", "ExitCode")
APPEARS_S = 30.0
"""Seconds until a new job must be visible in the queue."""
CANCEL_S = 20.0

_LIVELY = (
    JobState.RUNNING,
    JobState.ENDING,
    JobState.PENDING,
    JobState.UNKNOWN,
    JobState.FAILED,
    JobState.DONE,
    JobState.GONE,
)
_NOWHERE = JobStatus(JobState.GONE, reason="neither the queue nor the accounting knows it")
_DROPPED = JobStatus(
    JobState.GONE,
    reason="Slurm dropped it from its array: cancelled as it waited, or over for long",
)
_JOB_ID = re.compile(r"[1-9]\d*([_+]\d+)?")
_ALREADY_OVER = re.compile(r"Invalid job id|already completing or completed", re.IGNORECASE)


def statuses(job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """Return the statuses of the user's jobs, from one squeue, and one sacct for missing jobs.

    Args:
        job_ids: ids as sbatch gave them; elements of arrays as ``ID_INDEX``.

    Returns:
        A status for every id: UNKNOWN for all if squeue does not answer, GONE for a job unknown to
        both the queue and the accounting (which many sites lack).
    """
    wanted = dict.fromkeys(job_ids)
    if not wanted:
        return {}
    try:
        found = _queue()
    except CommandError as error:
        silence = JobStatus(JobState.UNKNOWN, reason=f"Slurm did not answer: {error}")
        return dict.fromkeys(wanted, silence)
    left = [job_id for job_id in wanted if job_id not in found]
    past = _accounting([job_id for job_id in left if _JOB_ID.fullmatch(job_id)])
    return {
        job_id: found.get(job_id) or past.get(job_id) or _missing(job_id, found)
        for job_id in wanted
    }


def _missing(job_id: str, found: Mapping[str, JobStatus]) -> JobStatus:
    """Return the status of a job unknown to Slurm.

    Slurm forgets an array's element that is cancelled before its start, whatever happens to others.
    """
    return _DROPPED if job_id.partition("_")[0] in found else _NOWHERE


def just_submitted(answer: JobStatus, submitted_at: float, *, now: float | None = None) -> bool:
    """Return whether a job is GONE only because Slurm does not show a new job yet.

    Args:
        answer: the job's status from ``statuses``.
        submitted_at: Unix time in seconds.
        now: Unix time in seconds; None is the present.
    """
    age = (time.time() if now is None else now) - submitted_at
    return answer.state is JobState.GONE and answer != _DROPPED and age < APPEARS_S


def drain(job_ids: Sequence[str]) -> None:
    """Cancel waiting jobs, and send SIGTERM to the batch commands of running jobs.

    Raises:
        SchedulerError: Slurm did not answer, or refused.
    """
    _scancel(job_ids, "--state=PENDING")
    # scancel retries for ever to signal a waiting job, and for long to signal a starting job:
    # hence the two calls, and callers check for jobs that have not ended.
    with suppress(SchedulerError):
        _scancel(job_ids, "--state=RUNNING", "--signal=TERM", "--batch")


def cancel(job_ids: Sequence[str]) -> None:
    """End jobs: Slurm sends SIGTERM to all their processes, and SIGKILL after KillWait.

    Raises:
        SchedulerError: Slurm did not answer, or refused.
    """
    _scancel(job_ids)


def _scancel(job_ids: Sequence[str], *options: str) -> None:
    """Run scancel; ended jobs are no error."""
    ids = [job_id for job_id in dict.fromkeys(job_ids) if _JOB_ID.fullmatch(job_id)]
    if not ids:
        return
    try:
        run(["scancel", *options, *ids], timeout_s=CANCEL_S)
    except CommandError as error:
        if error.returncode is None:
            raise unanswered(error) from error
        faults = [line for line in error.stderr.splitlines() if not _ALREADY_OVER.search(line)]
        if faults:
            told = said("\n".join(faults))
            raise SchedulerError(f"Slurm did not cancel {', '.join(ids)}: {told}") from error


def has_accounting() -> bool:
    """Return whether sacct answers."""
    try:
        run(["sacct", "--noheader", "--allocations", "--starttime=now"])
    except CommandError:
        return False
    return True


def _queue() -> dict[str, JobStatus]:
    """Return the user's jobs in slurmctld's memory.

    By user: slurmctld then sends only these jobs; for a list of ids it sends all jobs, and a
    single forgotten id fails the call. All states: without accounting a job's end is visible only
    here, for MinJobAge. No JSON: its shape differs between releases, and some builds lack it. The
    reason is the last field, since its text is free.

    Raises:
        CommandError: squeue failed, even with exit status 0.
    """
    result = run(
        [
            "squeue",
            "--local",
            "--all",
            "--noheader",
            f"--user={os.getuid()}",
            "--states=all",
            "--Format=" + ",".join(f"{field}:|" for field in QUEUE_FIELDS),
        ]
    )
    if not result.stdout.strip() and "error" in result.stderr:
        raise CommandError(f"squeue: {said(result.stderr)}", returncode=0, stderr=result.stderr)
    return _by_id(result.stdout)


def _accounting(job_ids: Sequence[str]) -> dict[str, JobStatus]:
    """Return the statuses known to the accounting; empty without accounting."""
    if not job_ids:
        return {}
    fields = ",".join(ACCOUNTING_FIELDS)
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", f"--format={fields}"]
    try:
        result = run([*argv, f"--jobs={','.join(job_ids)}"])
    except CommandError:
        return {}
    return {job_id: _settled(answer) for job_id, answer in _by_id(result.stdout).items()}


def _settled(answer: JobStatus) -> JobStatus:
    """Return the accounting's status of a job outside the queue."""
    if answer.state in {JobState.DONE, JobState.FAILED, JobState.UNKNOWN}:
        return answer
    return JobStatus(JobState.UNKNOWN, reason="it left the queue, its accounting is not final yet")


def _by_id(text: str) -> dict[str, JobStatus]:
    """Return the rows by job id; an array's state is that of its most active element."""
    found: dict[str, JobStatus] = {}
    for name, answer in _rows(text):
        for job_id in (*array_elements(name), *_whole(name)):
            known = found.get(job_id)
            if known is None or _LIVELY.index(answer.state) < _LIVELY.index(known.state):
                found[job_id] = answer
    return found


def _rows(text: str) -> Iterator[tuple[str, JobStatus]]:
    """Yield id and status of each row; lines without a job are skipped."""
    for line in text.splitlines():
        parts = line.strip().removesuffix("|").split("|", len(QUEUE_FIELDS) - 1)
        if len(parts) < len(ACCOUNTING_FIELDS) or not parts[0][:1].isdigit():
            continue
        name, state, start, end, nodes, code, *rest = parts
        reason = rest[0] if rest else ""
        answer = status(state, reason=reason, nodes=nodes, start=start, end=end, code=code)
        yield name, answer


def _whole(name: str) -> tuple[str, ...]:
    """Return the id of a row's whole array or heterogeneous job."""
    base = name.partition("_")[0].partition("+")[0]
    return () if base == name else (base,)
