"""Commands on a running batch: status, pause, resume, scale, cancel and retry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc.batch import cleanup, gateway_token
from hpc.batch import report as batch_report
from hpc.batch import submit as batch_submit
from hpc.batch.folder import DONE, BatchFolder
from hpc.batch.ledger import answers, claims, heartbeats, merge
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.worker import pause_rules
from hpc.errors import BatchError
from hpc.jobs import api as jobs
from hpc.model import JobState, JobStatus
from hpc.state import directory
from hpc.state import files as state_files

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from hpc.batch.model import BatchSpec, BatchWorker
    from hpc.batch.submit import Elsewhere
    from hpc.config import Site
    from hpc.jobs.submission import Cluster
    from hpc.model import JobHandle

AT_WORK = frozenset({JobState.PENDING, JobState.RUNNING, JobState.ENDING})
REMOVABLE = frozenset({"DONE", "CANCELLED"})
"""States of a batch that nobody goes on with."""
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The current status of a batch."""

    spec: BatchSpec
    state: str
    done: int
    good: int
    failed: int
    workers: tuple[BatchWorker, ...]
    jobs: tuple[tuple[JobHandle, JobStatus], ...]
    report: dict[str, Any] | None
    hours: batch_report.Hours
    on_done: dict[str, Any] | None
    why: str | None

    @property
    def over(self) -> bool:
        """Whether nobody goes on with the batch, and none of its jobs lives."""
        return self.state in REMOVABLE and not any(one.state.alive for _, one in self.jobs)


def ids(root: Path) -> list[str]:
    """Return the ids of all batches whose intake is complete."""
    names = [
        name
        for name in RealFileSystem().names(directory.batches_dir(root))
        if not name.startswith(".")
    ]
    return [name for name in names if BatchFolder.of(root, name).spec.exists()]


def look(root: Path, batch: str) -> BatchStatus:
    """Return the current status of a batch.

    Raises:
        BatchError: no batch has this id.
    """
    folder, files = directory.batch_dir(root, batch), RealFileSystem()
    spec = batch_report.load(folder)
    found = batch_submit.handles(folder)
    workers = heartbeats.load_all(files, folder)
    statuses = _statuses(found, workers)
    made = batch_report.report(folder)
    full = [len(merge.rows_of(spec, claim.chunk)) for claim in claims.listed(files, folder, DONE)]
    return BatchStatus(
        spec=spec,
        state=_state(folder, found, statuses, made),
        done=made["requests"] if made else sum(full),
        good=made["good"] if made else sum(one.good for one in workers),
        failed=made["failed"] if made else sum(one.failed for one in workers),
        workers=tuple(workers),
        jobs=tuple((handle, statuses[handle.key]) for handle in found),
        report=made,
        hours=batch_report.hours(workers),
        on_done=pause_rules.on_done(folder),
        why=pause_rules.why(folder) if made is None else None,
    )


def _state(
    folder: Path,
    found: Iterable[JobHandle],
    statuses: Mapping[str, JobStatus],
    made: dict[str, Any] | None,
) -> str:
    if made:
        return "DONE"
    said = BatchFolder(folder).order()
    states = [statuses[handle.key].state for handle in found]
    if said:
        ending = any(one.alive for one in states)
        return {"pause": "PAUSING" if ending else "PAUSED"}.get(said, "CANCELLED")
    if JobState.RUNNING in states:
        return "RUNNING"
    return "QUEUED" if any(one.alive for one in states) else "STOPPED"


def stop(root: Path, batch: str, *, word: str) -> None:
    """Make the workers of a batch flush and leave; waiting jobs are cancelled.

    Args:
        root: state directory.
        batch: the batch's id.
        word: "pause" or "cancel".

    Raises:
        BatchError: no batch has this id, or the batch is done.
        SchedulerError: Slurm did not answer.
    """
    folder = directory.batch_dir(root, batch)
    batch_report.load(folder)
    if batch_report.report(folder):
        raise BatchError(f"batch {batch} is done")
    (folder / pause_rules.WHY).unlink(missing_ok=True)
    state_files.write_text(BatchFolder(folder).control, word)
    if word == "cancel":
        gateway_token.end(root, batch)
    jobs.drain(batch_submit.handles(folder))
    if word == "cancel":
        _wait_ended(folder)
        jobs.cancel(_alive(folder))


def remove(root: Path, batch: str) -> None:
    """Remove the folder of a batch that is over; the output file stays.

    Args:
        root: the state directory.
        batch: the batch's id.

    Raises:
        BatchError: the batch does not exist, or is not over; its answers would be lost.
    """
    found = look(root, batch)
    if found.state not in REMOVABLE:
        raise BatchError(
            f"the batch {batch!r} is {found.state}, and its answers are in the folder",
            hint=f"'hpc-serve batch cancel {batch}' ends it first",
        )
    if not found.over:
        raise BatchError(f"jobs of the batch {batch!r} are still ending", hint="try again soon")
    gateway_token.end(root, batch)
    cleanup.drop(BatchFolder.of(root, batch).path)


def resume(
    root: Path,
    batch: str,
    *,
    workers: int | None,
    cluster: Cluster | None,
    site: Site,
    elsewhere: Elsewhere = lambda resources: resources,
) -> int:
    """Resume a batch with a number of workers, and return the number of newly submitted workers.

    Args:
        root: state directory.
        batch: the batch's id.
        workers: jobs; None means as many as at the first submission.
        cluster: "slurm" or "local"; None detects Slurm.
        site: names the container program and templates.
        elsewhere: changes the resources of new jobs, such as the partition.

    Raises:
        BatchError: no batch has this id, or the batch is done.
        SchedulerError: a job was refused.
    """
    folder = directory.batch_dir(root, batch)
    spec = batch_report.load(folder)
    if batch_report.report(folder):
        raise BatchError(f"batch {batch} is done", hint="try failed requests again: batch retry")
    if BatchFolder(folder).order():
        # Workers still leaving would read the cleared command and stay, so they end first.
        _wait_ended(folder)
        state_files.write_text(BatchFolder(folder).control, "")
        pause_rules.forget(folder)
    missing = (workers or spec.workers) - len(_alive(folder))
    batch_submit.submit_workers(root, spec, max(0, missing), cluster, site, {}, elsewhere)
    return max(0, missing)


def scale(
    root: Path,
    batch: str,
    workers: int,
    *,
    cluster: Cluster | None,
    site: Site,
    elsewhere: Elsewhere = lambda resources: resources,
) -> int:
    """Bring a batch to a number of workers; return the change. Arguments are those of ``resume``.

    Raises:
        BatchError: no batch has this id, or the batch is done.
        SchedulerError: a job was refused, or Slurm did not answer.
    """
    folder = directory.batch_dir(root, batch)
    batch_report.load(folder)
    alive = _alive(folder)
    if len(alive) <= workers:
        return resume(root, batch, workers=workers, cluster=cluster, site=site, elsewhere=elsewhere)
    # Waiting jobs go first. Also, while elements of an array wait, scancel (Slurm 24.11) reports a
    # signal to another element as refused and retries for a minute, although the signal was sent.
    jobs.drain(alive[workers:])
    return workers - len(alive)


def retry(root: Path, batch: str, *, cluster: Cluster | None, site: Site) -> int:
    """Send the requests that ended in an error again, and return their number.

    Raises:
        BatchError: no batch has this id, or the batch still runs.
        SchedulerError: a job was refused.
    """
    folder, files = directory.batch_dir(root, batch), RealFileSystem()
    spec = batch_report.load(folder)
    if batch_report.report(folder) is None:
        raise BatchError(f"batch {batch} is not done yet")
    again = 0
    for done in list(claims.listed(files, folder, DONE)):
        found = answers.collect(files, folder, done.chunk, done.attempt + 1)
        errors = sum(not one.good for one in found.values())
        if errors and claims.reopen(files, folder, done):
            again += errors
    if again:
        BatchFolder(folder).report.unlink(missing_ok=True)
        pause_rules.forget(folder)
        _wait_ended(folder)
        batch_submit.submit_workers(root, spec, spec.workers, cluster, site, {})
    return again


def here(folder: Path) -> list[JobHandle]:
    """Return the jobs of a batch on the local machine."""
    return _jobs_in(folder, AT_WORK)


def settle(folder: Path) -> None:
    """Wait up to ``SETTLE_S`` seconds for the workers' end, then cancel the remaining workers."""
    deadline = time.monotonic() + SETTLE_S
    while here(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    jobs.cancel(here(folder))


def _alive(folder: Path) -> list[JobHandle]:
    return _jobs_in(folder, [state for state in JobState if state.alive])


def _jobs_in(folder: Path, states: Container[JobState]) -> list[JobHandle]:
    """Return the jobs in the given states, running jobs first."""
    found = batch_submit.handles(folder)
    answers = _statuses(found, heartbeats.load_all(RealFileSystem(), folder))
    states_of = {handle: answers[handle.key].state for handle in found}
    among = [handle for handle in found if states_of[handle] in states]
    return sorted(among, key=lambda handle: states_of[handle] is not JobState.RUNNING)


def _statuses(found: Sequence[JobHandle], workers: Iterable[BatchWorker]) -> dict[str, JobStatus]:
    """Return the statuses of a batch's jobs; UNKNOWN for a GONE job whose worker still writes."""
    answers = jobs.statuses(found)
    now = time.time()
    write = {
        one.job_id
        for one in workers
        if not one.ended and abs(now - one.beat_at) <= directory.STALE_S
    }
    for handle in found:
        if answers[handle.key].state is JobState.GONE and handle.job_id in write:
            reason = "Slurm does not know the job, but its worker still writes"
            answers[handle.key] = JobStatus(JobState.UNKNOWN, reason=reason)
    return answers


def _wait_ended(folder: Path) -> None:
    deadline = time.monotonic() + SETTLE_S
    while _alive(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
