"""Submit, watch, pause, resume, scale and end a batch."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import jobs, preflight, state
from hpc.batch import answers, chunks, crew, intake, merge, outcome, source
from hpc.batch.files import RealFiles
from hpc.batch.job import RunBatch
from hpc.errors import BatchError, ConfigError
from hpc.model import BatchSpec, JobHandle, JobState, Resources, ServiceSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hpc.batch.client import Target
    from hpc.config import Site
    from hpc.model import BatchWorker, JobStatus
    from hpc.submit import Cluster

ALIVE = frozenset({JobState.PENDING, JobState.RUNNING, JobState.ENDING, JobState.UNKNOWN})
RESTARTS = 100
GRACE_S = 90
CHUNKS_WANTED = 64
"""Chunks for each worker in a small batch; a large one has chunks of LARGEST_CHUNK."""
LARGEST_CHUNK = 500
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asks of a batch.

    Attributes:
        path: file of requests.
        output: file for the answers.
        model: name of the model for lines that say none, and the only one allowed.
        workers: jobs.
        extra: further sbatch options, such as begin and dependency.
        target: a gateway that answers; None brings engines.
        skip_bad: leave faulty lines out.
    """

    path: Path
    output: Path
    model: str
    workers: int = 1
    extra: Mapping[str, str] | None = None
    target: Target | None = None
    skip_bad: bool = False
    timeout_s: float = 600.0
    retries: int = 5
    in_flight: int = 256


@dataclass(frozen=True, slots=True)
class Look:
    """A batch as it is now."""

    spec: BatchSpec
    state: str
    done: int
    good: int
    failed: int
    workers: tuple[BatchWorker, ...]
    jobs: tuple[tuple[JobHandle, JobStatus], ...]
    report: dict[str, Any] | None


def submit(
    root: Path, wanted: Wanted, *, engine: ServiceSpec | None, cluster: Cluster | None, site: Site
) -> BatchSpec:
    """Take a file in and submit its workers; all or nothing.

    Args:
        root: state directory.
        wanted: what was asked for.
        engine: the model that each job serves to itself; None where a gateway answers.
        cluster: where jobs run; None finds out.
        site: names the container program and templates.

    Raises:
        BatchError: the file is faulty or the output cannot be written.
        ConfigError: the file cannot be read.
        EngineError: the image or the model is not there.
        SchedulerError: a job was refused.
    """
    if engine is not None:
        preflight.check_files(engine)
    if not wanted.output.parent.is_dir():
        raise ConfigError(f"there is no folder {wanted.output.parent} for the output")
    folder = _fresh(root)
    try:
        spec = _prepare(folder, wanted, engine)
        _submit_workers(root, spec, spec.workers, cluster, site, wanted.extra or {})
    except BaseException:
        jobs.cancel(handles(folder))
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return spec


def _fresh(root: Path) -> Path:
    stamp = time.strftime("%m%d-%H%M%S")
    for tail in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = state.batch_dir(root, stamp + tail)
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise BatchError(f"cannot make {folder}: {error.strerror}") from error
        return folder
    raise BatchError("a thousand batches in one second are too many")


def _prepare(folder: Path, wanted: Wanted, engine: ServiceSpec | None) -> BatchSpec:
    rows = _count_lines(wanted.path)
    chunk_rows = max(1, min(LARGEST_CHUNK, rows // (CHUNKS_WANTED * wanted.workers) or 1))
    found = intake.unique(source.read(wanted.path, wanted.model))
    seen = intake.take_in(found, folder, chunk_rows=chunk_rows, skip_bad=wanted.skip_bad)
    spec = BatchSpec(
        id=folder.name,
        source=str(wanted.path),
        output=str(wanted.output),
        service=wanted.model if wanted.target else None,
        rows=seen.good,
        chunk_rows=chunk_rows,
        chunks=-(-seen.good // chunk_rows),
        workers=wanted.workers,
        in_flight=wanted.in_flight,
        timeout_s=wanted.timeout_s,
        retries=wanted.retries,
        made_at=time.time(),
    )
    for name in (chunks.TODO, chunks.DOING, chunks.DONE, "answers", "workers", "logs", "crew"):
        (folder / name).mkdir(mode=0o700)
    for chunk in range(spec.chunks):
        (folder / chunks.TODO / chunks.Claim(chunk, 0).name).touch(mode=0o600)
    if engine is not None:
        state.write_record(folder / "engine.json", engine)
    if wanted.target is not None:
        state.write_text(folder / "url", wanted.target.url)
        state.write_text(folder / "key", wanted.target.key or "")
    state.write_record(folder / "spec.json", spec)
    return spec


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _submit_workers(
    root: Path,
    spec: BatchSpec,
    count: int,
    cluster: Cluster | None,
    site: Site,
    extra: Mapping[str, str],
) -> list[JobHandle]:
    folder = state.batch_dir(root, spec.id)
    engine = state.read_record(folder / "engine.json", ServiceSpec)
    resources = engine.resources if engine else Resources()
    # A gateway listens on this machine: those who ask it run here too.
    where = (cluster or jobs.default_cluster()) if engine else "local"
    made = []
    for number in range(count):
        handle = jobs.submit_callable(
            RunBatch(str(root), spec.id, site.apptainer),
            name=f"batch-{spec.id}",
            resources=replace(resources, extra={**resources.extra, **extra}),
            root=root,
            setup=engine.setup if engine else (),
            cluster=where,
            site=site,
            restarts=RESTARTS,
            grace_s=GRACE_S,
            number=number,
        )
        state.write_record(folder / "crew" / f"{handle.job_id}.json", handle)
        made.append(handle)
    return made


def handles(folder: Path) -> list[JobHandle]:
    """Return the jobs of a batch."""
    names = [name for name in RealFiles().names(folder / "crew") if not name.startswith(".")]
    found = (state.read_record(folder / "crew" / name, JobHandle) for name in names)
    return [one for one in found if one is not None]


def ids(root: Path) -> list[str]:
    """Return the ids of all batches."""
    return [name for name in RealFiles().names(root / "batches") if not name.startswith(".")]


def look(root: Path, batch: str) -> Look:
    """Return a batch as it is now.

    Raises:
        BatchError: there is none of that id.
    """
    folder, files = state.batch_dir(root, batch), RealFiles()
    spec = outcome.load(folder)
    found = handles(folder)
    statuses = jobs.statuses(found)
    crewmen = crew.load_all(files, folder)
    made = outcome.report(folder)
    full = [
        len(merge.rows_of(spec, claim.chunk)) for claim in chunks.listed(files, folder, chunks.DONE)
    ]
    return Look(
        spec=spec,
        state=_state(folder, found, statuses, made),
        done=made["requests"] if made else sum(full),
        good=made["good"] if made else sum(one.good for one in crewmen),
        failed=made["failed"] if made else sum(one.failed for one in crewmen),
        workers=tuple(crewmen),
        jobs=tuple((handle, statuses[handle.job_id]) for handle in found),
        report=made,
    )


def _state(
    folder: Path,
    found: Iterable[JobHandle],
    statuses: Mapping[str, JobStatus],
    made: dict[str, Any] | None,
) -> str:
    if made:
        return "DONE"
    said = (state.read_text(folder / "control") or "").strip()
    states = [statuses[handle.job_id].state for handle in found]
    if said:
        ending = any(one in ALIVE for one in states)
        return {"pause": "PAUSING" if ending else "PAUSED"}.get(said, "CANCELLED")
    if JobState.RUNNING in states:
        return "RUNNING"
    return "QUEUED" if any(one in ALIVE for one in states) else "STOPPED"


def stop(root: Path, batch: str, *, word: str) -> None:
    """Have the workers of a batch flush and leave; what is queued is cancelled.

    Args:
        root: state directory.
        batch: its id.
        word: "pause" or "cancel".

    Raises:
        BatchError: there is none of that id, or it is done.
        SchedulerError: Slurm did not answer.
    """
    folder = state.batch_dir(root, batch)
    outcome.load(folder)
    if outcome.report(folder):
        raise BatchError(f"batch {batch} is done")
    state.write_text(folder / "control", word)
    jobs.drain(handles(folder))
    if word == "cancel":
        _wait_ended(folder)
        jobs.cancel(_alive(folder))


def resume(
    root: Path, batch: str, *, workers: int | None, cluster: Cluster | None, site: Site
) -> int:
    """Have a batch go on with so many workers; return how many were submitted.

    Raises:
        BatchError: there is none of that id, or it is done.
        SchedulerError: a job was refused.
    """
    folder = state.batch_dir(root, batch)
    spec = outcome.load(folder)
    if outcome.report(folder):
        raise BatchError(f"batch {batch} is done", hint="try failed requests again: batch retry")
    if state.read_text(folder / "control"):
        _wait_ended(folder)
        state.write_text(folder / "control", "")
    missing = (workers or spec.workers) - len(_alive(folder))
    _submit_workers(root, spec, max(0, missing), cluster, site, {})
    return max(0, missing)


def scale(root: Path, batch: str, workers: int, *, cluster: Cluster | None, site: Site) -> int:
    """Bring a batch to so many workers; return the change.

    Raises:
        BatchError: there is none of that id, or it is done.
        SchedulerError: a job was refused, or Slurm did not answer.
    """
    folder = state.batch_dir(root, batch)
    outcome.load(folder)
    alive = _alive(folder)
    if len(alive) <= workers:
        return resume(root, batch, workers=workers, cluster=cluster, site=site)
    jobs.drain(alive[workers:])
    return workers - len(alive)


def retry(root: Path, batch: str, *, cluster: Cluster | None, site: Site) -> int:
    """Ask again what ended in an error; return how many requests that is.

    Raises:
        BatchError: there is none of that id, or it still runs.
        SchedulerError: a job was refused.
    """
    folder, files = state.batch_dir(root, batch), RealFiles()
    spec = outcome.load(folder)
    if outcome.report(folder) is None:
        raise BatchError(f"batch {batch} is not done yet")
    again = 0
    for done in list(chunks.listed(files, folder, chunks.DONE)):
        found = answers.collect(files, folder, done.chunk, done.attempt + 1)
        errors = sum(not one.good for one in found.values())
        if errors and chunks.reopen(files, folder, done):
            again += errors
    if again:
        (folder / outcome.REPORT).unlink(missing_ok=True)
        _wait_ended(folder)
        _submit_workers(root, spec, spec.workers, cluster, site, {})
    return again


def _alive(folder: Path) -> list[JobHandle]:
    found = handles(folder)
    statuses = jobs.statuses(found)
    return [handle for handle in found if statuses[handle.job_id].state in ALIVE]


def _wait_ended(folder: Path) -> None:
    deadline = time.monotonic() + SETTLE_S
    while _alive(folder) and time.monotonic() < deadline:
        time.sleep(0.5)
