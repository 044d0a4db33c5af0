"""Jobs by id and name: status, drain and cancel, on the cluster of each job."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc.errors import CommandError, SchedulerError
from hpc.model import JobState, JobStatus
from hpc.slurm.command import run, said, unanswered
from hpc.slurm.sinfo import this_cluster
from hpc.slurm.states import array_elements, status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpc.model import JobHandle

QUEUE_FIELDS = (
    "JobArrayID",
    "State",
    "StartTime",
    "EndTime",
    "NodeList",
    "exit_code",
    "RestartCnt",
    "Name",
    "Reason",
)
ACCOUNTING_FIELDS = ("JobID", "State", "Start", "End", "NodeList", "ExitCode", "JobName")
APPEARS_S = 30.0
"""Seconds until a new job must be visible in the queue."""
CANCEL_S = 30.0
"""Seconds for scancel; with --state Slurm 26.05 gives up on a lost slurmctld after 20."""

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
_TAKEN = JobStatus(JobState.GONE, reason="its number is another job's by now")
"""Of a job whose own cluster has another job under the number: numbers are given again."""
_EMPTY = "squeue lists no job at all, and does not say that the job is unknown"
_JOB_ID = re.compile(r"[1-9]\d*([_+]\d+)?")
_NO_SUCH_JOB = re.compile(r"Invalid job id", re.IGNORECASE)
_ALREADY_OVER = re.compile(r"Invalid job id|already completing or completed", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Found:
    """A job at Slurm.

    Attributes:
        status: its status.
        cluster: the cluster's name for Slurm's programs; "" is the cluster of this machine.
        listed: whether the queue lists the job, by its id and name.
        silent: whether nothing is known, since the cluster did not answer.
    """

    status: JobStatus
    cluster: str
    listed: bool = False
    silent: bool = False


def statuses(jobs: Sequence[JobHandle]) -> dict[str, JobStatus]:
    """Return the statuses of the user's jobs, by ``JobHandle.key``.

    One squeue for each cluster, and one sacct for missing jobs.

    Args:
        jobs: jobs as sbatch gave them; ids of elements of arrays are ``ID_INDEX``.

    Returns:
        A status for every job: UNKNOWN if its cluster does not answer, GONE for a job unknown to
        both the queue and the accounting (which many sites lack).
    """
    return {job.key: found.status for job, found in _locate(jobs).items()}


def _locate(jobs: Sequence[JobHandle]) -> dict[JobHandle, _Found]:
    """Return the clusters' knowledge of all jobs.

    A job without a named cluster is sought here first, and only if missing on its own cluster:
    machines of several clusters may share a home.
    """
    wanted = dict.fromkeys(jobs)
    found = _on("", [job for job in wanted if not job.named_cluster])
    missing = [job for job, one in found.items() if job.slurm_cluster and _is_missing(one)]
    here = this_cluster() if missing else ""
    away = [job for job in missing if job.slurm_cluster != here]
    away += [job for job in wanted if job.named_cluster]
    for name in dict.fromkeys(job.slurm_cluster for job in away):
        found |= _on(name, [job for job in away if job.slurm_cluster == name])
    renumbered = [job for job in missing if job.slurm_cluster == here and found[job].silent]
    return found | dict.fromkeys(renumbered, _Found(_TAKEN, ""))


def _is_missing(found: _Found) -> bool:
    """Return whether an answering queue lacks a job, or has the number for another job."""
    return found.status.state is JobState.GONE or (found.silent and found.status.name is not None)


def _on(cluster: str, jobs: Sequence[JobHandle]) -> dict[JobHandle, _Found]:
    """Return one cluster's knowledge of jobs."""
    if not jobs:
        return {}
    try:
        rows = _queue(cluster)
    except CommandError as error:
        return dict.fromkeys(jobs, _silence(cluster, f"Slurm did not answer: {error}"))
    listed = {job: rows[job.job_id] for job in jobs if _is_it(job, rows.get(job.job_id))}
    left = [job for job in jobs if job not in listed]
    past = _accounting([job.job_id for job in left if _JOB_ID.fullmatch(job.job_id)], cluster)
    ended = {job: past[job.job_id] for job in left if _is_it(job, past.get(job.job_id))}
    lost = [job for job in left if job not in ended]
    doubtful = not rows and not _says_unknown(lost, cluster)
    return {
        **{job: _Found(one, cluster, listed=True) for job, one in listed.items()},
        **{job: _Found(one, cluster) for job, one in ended.items()},
        **{
            job: _silence(cluster, _EMPTY) if doubtful else _lost(job, rows, cluster)
            for job in lost
        },
    }


def _silence(cluster: str, reason: str) -> _Found:
    told = f"on the cluster {cluster}: {reason}" if cluster else reason
    return _Found(JobStatus(JobState.UNKNOWN, reason=told), cluster, silent=True)


def _is_it(job: JobHandle, row: JobStatus | None) -> bool:
    """Return whether a row with a job's id is the job: numbers come again, names do not."""
    return row is not None and (row.name is None or job.name in row.name)


def _lost(job: JobHandle, rows: Mapping[str, JobStatus], cluster: str) -> _Found:
    """Return the knowledge of a job without a row in a cluster's queue and accounting."""
    other = rows.get(job.job_id)
    if other is None:
        return _Found(_missing(job.job_id, rows), cluster)
    if cluster:
        return _Found(_TAKEN, cluster)
    told = f"Slurm's job {job.job_id} bears another name, {other.name}, than {job.name}"
    return _Found(JobStatus(JobState.UNKNOWN, told, name=other.name), cluster, silent=True)


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
    sure = answer in {_DROPPED, _TAKEN}
    return answer.state is JobState.GONE and not sure and age < APPEARS_S


def drain(jobs: Sequence[JobHandle]) -> None:
    """Cancel waiting jobs, and send SIGTERM to the batch commands of running jobs.

    Raises:
        SchedulerError: Slurm did not answer, or refused.
    """
    living = _living(jobs)
    for cluster, ids in living.items():
        _scancel(ids, cluster, "--state=PENDING")
    # scancel retries for ever to signal a waiting job, and for long to signal a starting job:
    # hence the two calls, and callers check for jobs that have not ended.
    for cluster, ids in living.items():
        with suppress(SchedulerError):
            _scancel(ids, cluster, "--state=RUNNING", "--signal=TERM", "--batch")


def cancel(jobs: Sequence[JobHandle]) -> None:
    """End jobs: Slurm sends SIGTERM to all their processes, and SIGKILL after KillWait.

    Raises:
        SchedulerError: Slurm did not answer, or refused.
    """
    for cluster, ids in _living(jobs).items():
        _scancel(ids, cluster)


def _living(jobs: Sequence[JobHandle]) -> dict[str, list[str]]:
    """Return the ids of living jobs by cluster, each with the user and name of the handle.

    Raises:
        SchedulerError: a cluster did not answer, or has another job under a job's id.
    """
    found: dict[str, list[str]] = {}
    for job, one in _locate([job for job in jobs if _JOB_ID.fullmatch(job.job_id)]).items():
        if one.silent:
            where = f", or on a login node of {one.cluster}" if one.cluster else ""
            raise SchedulerError(
                f"job {job.job_id} is not cancelled: {one.status.reason}",
                hint=f"jobs go on without Slurm's answer; try again in a minute{where}",
            )
        fresh = just_submitted(one.status, job.submitted_at)
        if fresh or (one.listed and one.status.state.alive):
            found.setdefault(one.cluster, []).append(job.job_id)
    return found


def _scancel(job_ids: Sequence[str], cluster: str, *options: str) -> None:
    """Run scancel; ended jobs are no error."""
    ids = list(dict.fromkeys(job_ids))
    try:
        run(["scancel", *_named(cluster), *options, *ids], timeout_s=CANCEL_S)
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


def ids_of(name: str, cluster: str = "") -> list[str]:
    """Return the ids of the user's jobs of a name, of arrays without an index.

    Args:
        name: a job's name, in full.
        cluster: the cluster's name; "" is the cluster of this machine.

    Raises:
        CommandError: squeue did not answer.
    """
    found = [job_id for job_id, row in _queue(cluster).items() if row.name == name]
    return list(dict.fromkeys(job_id.partition("_")[0] for job_id in found))


def _named(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _queue(cluster: str = "") -> dict[str, JobStatus]:
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
            *(_named(cluster) or ["--local"]),
            "--all",
            "--noheader",
            f"--user={os.getuid()}",
            "--states=all",
            "--Format=" + ",".join(f"{field}:|" for field in QUEUE_FIELDS),
        ]
    )
    if not result.stdout.strip() and "error" in result.stderr:
        raise CommandError(f"squeue: {said(result.stderr)}", returncode=0, stderr=result.stderr)
    return _by_id(result.stdout, QUEUE_FIELDS)


def _says_unknown(lost: Sequence[JobHandle], cluster: str) -> bool:
    """Return whether Slurm calls a job unknown, beyond a list without the job.

    An empty list is what a squeue shows that has lost its way to slurmctld, too.
    """
    ids = [job.job_id for job in lost if _JOB_ID.fullmatch(job.job_id)]
    if not ids:
        return True
    where = _named(cluster) or ["--local"]
    number = re.split(r"[_+]", ids[0])[0]
    try:
        run(["squeue", *where, "--noheader", "--states=all", f"--jobs={number}"])
    except CommandError as error:
        return bool(_NO_SUCH_JOB.search(error.stderr))
    return False


def _accounting(job_ids: Sequence[str], cluster: str = "") -> dict[str, JobStatus]:
    """Return the statuses known to the accounting; empty without accounting."""
    if not job_ids:
        return {}
    fields = ",".join(ACCOUNTING_FIELDS)
    argv = ["sacct", *_named(cluster), "--noheader", "--parsable2", "--allocations"]
    try:
        result = run([*argv, f"--format={fields}", f"--jobs={','.join(job_ids)}"])
    except CommandError:
        return {}
    found = _by_id(result.stdout, ACCOUNTING_FIELDS)
    return {job_id: _settled(answer) for job_id, answer in found.items()}


def _settled(answer: JobStatus) -> JobStatus:
    """Return the accounting's status of a job outside the queue."""
    if answer.state in {JobState.DONE, JobState.FAILED, JobState.UNKNOWN}:
        return answer
    late = "it left the queue, its accounting is not final yet"
    return JobStatus(JobState.UNKNOWN, reason=late, name=answer.name)


def _by_id(text: str, fields: Sequence[str]) -> dict[str, JobStatus]:
    """Return the rows by job id; an array's state is that of its most active element."""
    found: dict[str, JobStatus] = {}
    for name, answer in _rows(text, fields):
        for job_id in (*array_elements(name), *_whole(name)):
            known = found.get(job_id)
            if known is None or _LIVELY.index(answer.state) < _LIVELY.index(known.state):
                found[job_id] = answer
    return found


def _rows(text: str, fields: Sequence[str]) -> Iterator[tuple[str, JobStatus]]:
    """Yield id and status of each row; lines without a job are skipped."""
    for line in text.splitlines():
        parts = line.strip().removesuffix("|").split("|", len(fields) - 1)
        if len(parts) < len(fields) or not parts[0][:1].isdigit():
            continue
        job_id, state, start, end, nodes, code, *_ = parts
        told = dict(zip(fields, parts, strict=True))
        times = told.get("RestartCnt", "")
        answer = status(
            state, reason=told.get("Reason", ""), nodes=nodes, start=start, end=end, code=code
        )
        yield (
            job_id,
            replace(
                answer,
                restarts=int(times) if times.isdigit() else None,
                name=told.get("Name") or told.get("JobName"),
            ),
        )


def _whole(name: str) -> tuple[str, ...]:
    """Return the id of a row's whole array or heterogeneous job."""
    base = name.partition("_")[0].partition("+")[0]
    return () if base == name else (base,)
