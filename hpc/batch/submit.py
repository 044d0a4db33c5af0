"""The submission of a batch: intake of the file, then a job for each worker."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from hpc.batch import cleanup, gateway_token
from hpc.batch.folder import TODO, BatchFolder
from hpc.batch.input import documents, intake, parquet
from hpc.batch.ledger import claims
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.model import BatchSpec
from hpc.batch.worker.job import RunBatch
from hpc.errors import BatchError, ConfigError
from hpc.jobs import api as jobs
from hpc.jobs import planning
from hpc.model import JobHandle, JobRequest, Resources, ServiceSpec
from hpc.state import directory, files, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from hpc.batch.input.jsonl import BadLine, InputRequest
    from hpc.config import Site
    from hpc.jobs.submission import Cluster

    Elsewhere = Callable[[Resources], Resources]
    Watch = Callable[[Iterable[InputRequest | BadLine]], Iterable[InputRequest | BadLine]]

RESTARTS = 100
GRACE_S = 90
CHUNKS_WANTED = 64
"""Chunks for each worker of a small batch; in a large batch a chunk has LARGEST_CHUNK rows."""
LARGEST_CHUNK = 500


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The user's options for a batch.

    Attributes:
        path: file of requests.
        output: file for the answers.
        model: model name for lines without a model, and the only one allowed; None allows any.
        workers: number of jobs.
        extra: further sbatch options, such as begin and dependency.
        by_gateway: let the gateway of this machine answer; otherwise each job starts an engine.
        token: batch token for the gateway; None grants one of the owner's key.
        skip_bad: leave faulty lines out.
        timeout_s: seconds for one try of a request.
        retries: further tries of a failed request.
        in_flight: most requests of a worker in flight.
        template: Jinja2 template of the message for each row of a table.
        max_hours: hours of work until the batch pauses.
        on_done: shell command to run after the last answer.
        model_patience_s: seconds without the model until the batch pauses.
        overwrite: whether an output file that exists may be replaced.
        any_model: send lines that name another model to this one, too.
    """

    path: Path
    output: Path
    model: str | None
    workers: int = 1
    extra: Mapping[str, str] | None = None
    by_gateway: bool = False
    token: str | None = field(default=None, repr=False)
    skip_bad: bool = False
    timeout_s: float = 600.0
    retries: int = 5
    in_flight: int = 256
    template: Path | None = None
    max_hours: float | None = None
    on_done: str | None = None
    model_patience_s: float = 3600.0
    overwrite: bool = False
    any_model: bool = False


def submit(
    root: Path,
    wanted: BatchOptions,
    *,
    engine: ServiceSpec | None,
    cluster: Cluster | None,
    site: Site,
    watch: Watch = iter,
    tell: Callable[[str], None] = lambda _: None,
) -> BatchSpec:
    """Take a file in and submit its workers; on failure nothing is left behind.

    Args:
        root: state directory.
        wanted: the user's options.
        engine: the model that each job serves for itself; None when a gateway answers.
        cluster: "slurm" or "local"; None detects Slurm.
        site: names the container program and templates.
        watch: passes the requests on while they are read, such as for a progress display.
        tell: called with each note of the engine's plan.

    Raises:
        BatchError: the file is faulty or the output cannot be written.
        ConfigError: the file cannot be read, or the output exists or belongs to another batch.
        EngineError: the image or the model is missing.
        SchedulerError: a job was refused.
    """
    if engine is not None:
        planned = planning.planned(engine, cluster=cluster or jobs.default_cluster())
        engine = planned.spec
        for note in planned.notes:
            tell(note)
    if not wanted.output.parent.is_dir():
        raise ConfigError(f"there is no folder {wanted.output.parent} for the output")
    if not wanted.overwrite:
        _check_free(root, wanted.output)
    if parquet.is_parquet(wanted.output):
        parquet.needed()
    cleanup.sweep(root)
    folder = _fresh(root)
    try:
        with cleanup.holding(folder):
            spec = _prepare(folder, wanted, engine, watch)
        submit_workers(root, spec, spec.workers, cluster, site, wanted.extra or {})
    except BaseException:
        jobs.cancel(handles(folder))
        gateway_token.end(root, folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return spec


def dated(text: str) -> str:
    """Return a text with the present day and time in place of ``{date}`` and ``{time}``."""
    now = datetime.now()  # noqa: DTZ005 - in names that people read
    return text.replace("{date}", now.strftime("%Y-%m-%d")).replace("{time}", now.strftime("%H%M"))


def _check_free(root: Path, output: Path) -> None:
    """Refuse an output that exists, or that another batch is about to write.

    Raises:
        ConfigError: names the file, and the batch whose output the file is.
    """
    owner = next((one for one in _specs(root) if one.output == str(output)), None)
    folder = None if owner is None else BatchFolder.of(root, owner.id)
    over = folder is None or folder.report.exists() or folder.order() == "cancel"
    if over and not output.exists():
        return
    whose = "" if owner is None else f": the output of batch {owner.id}"
    verb = "exists" if output.exists() else "is taken"
    raise ConfigError(
        f"{output} {verb}{whose}",
        hint="name another file, use {date} or {time} in its name, or say --overwrite",
    )


def _specs(root: Path) -> Iterator[BatchSpec]:
    """Yield the specifications of all batches, the newest first."""
    for folder in sorted(directory.batches_dir(root).glob("[!.]*"), reverse=True):
        spec = records.read_record(BatchFolder(folder).spec, BatchSpec)
        if spec is not None:
            yield spec


def _fresh(root: Path) -> Path:
    stamp = time.strftime("%m%d-%H%M%S")
    for tail in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = directory.batch_dir(root, stamp + tail)
        # mkdir decides between two submissions in the same second.
        try:
            files.make_folder(folder, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise BatchError(f"cannot make {folder}: {error.strerror}") from error
        return folder
    raise BatchError("cannot name the batch: a thousand batches began in this second")


def _prepare(
    folder: Path, wanted: BatchOptions, engine: ServiceSpec | None, watch: Watch = iter
) -> BatchSpec:
    # Counted before the reading: the size of a chunk depends on the number of rows.
    rows = _count(wanted)
    chunk_rows = max(1, min(LARGEST_CHUNK, rows // (CHUNKS_WANTED * wanted.workers) or 1))
    read = intake.read(wanted.path, wanted.model, wanted.template, any_model=wanted.any_model)
    found = watch(read)
    seen = intake.take_in(found, folder, chunk_rows=chunk_rows, skip_bad=wanted.skip_bad)
    spec = BatchSpec(
        id=folder.name,
        source=str(wanted.path),
        output=str(wanted.output),
        service=wanted.model if wanted.by_gateway and wanted.token is None else None,
        rows=seen.good,
        chunk_rows=chunk_rows,
        chunks=-(-seen.good // chunk_rows),
        workers=wanted.workers,
        in_flight=wanted.in_flight,
        timeout_s=wanted.timeout_s,
        retries=wanted.retries,
        made_at=time.time(),
        max_hours=wanted.max_hours,
        on_done=wanted.on_done,
        model_patience_s=wanted.model_patience_s,
    )
    names = BatchFolder(folder)
    names.make_folders()
    for chunk in range(spec.chunks):
        names.claim(TODO, claims.Claim(chunk, 0).name).touch(mode=0o600)
    if engine is not None:
        records.write_record(names.engine, engine)
    if wanted.token is not None:
        files.write_text(names.key, wanted.token)
    # Last of all: a folder without spec.json is a batch whose intake is not complete.
    records.write_record(names.spec, spec)
    return spec


def _count(wanted: BatchOptions) -> int:
    """Return the number of rows of a file, or about that of a table."""
    path = wanted.path
    if parquet.is_parquet(path):
        return parquet.count(path)
    return documents.count(path) if wanted.template is None else documents.count_lines(path)


def submit_workers(
    root: Path,
    spec: BatchSpec,
    count: int,
    cluster: Cluster | None,
    site: Site,
    extra: Mapping[str, str],
    elsewhere: Elsewhere = lambda resources: resources,
) -> list[JobHandle]:
    """Submit a number of workers of a batch, all or none; on Slurm as one array.

    Args:
        root: state directory.
        spec: the batch.
        count: number of workers; 0 submits nothing.
        cluster: "slurm" or "local"; None detects Slurm.
        site: names the container program and templates.
        extra: further sbatch options.
        elsewhere: changes the batch's original resources, such as the partition.

    Raises:
        SchedulerError: a job was refused.
    """
    if count == 0:
        return []
    folder = BatchFolder.of(root, spec.id)
    engine = records.read_record(folder.engine, ServiceSpec)
    resources = elsewhere(engine.resources) if engine else Resources()
    # The gateway listens on this machine, so its workers run here too.
    where = (cluster or jobs.default_cluster()) if engine else "local"
    request = JobRequest(
        f"batch-{spec.id}",
        replace(resources, extra={**resources.extra, **extra}),
        engine.setup if engine else (),
        RESTARTS,
        GRACE_S,
        count,
    )
    if spec.service is not None:
        gateway_token.grant(root, spec.id)
    task = RunBatch(str(root), spec.id, site.apptainer, resources.gpus)
    made = jobs.submit(task, request, root, cluster=where, site=site)
    try:
        for handle in made:
            records.write_record(folder.job(handle.job_id), handle)
    except BaseException:
        jobs.cancel(made)  # a job without a record could not be found again
        raise
    return made


def handles(folder: Path) -> list[JobHandle]:
    """Return the jobs of a batch."""
    jobs_folder = BatchFolder(folder).jobs
    names = [name for name in RealFileSystem().names(jobs_folder) if not name.startswith(".")]
    found = (records.read_record(jobs_folder / name, JobHandle) for name in names)
    return [one for one in found if one is not None]
