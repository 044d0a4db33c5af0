"""Jobs on Slurm or on the local machine, behind one interface."""

# ruff: noqa: PLC0415 - submitit costs more than a squeue

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import slurm
from hpc.errors import ConfigError
from hpc.jobs import local
from hpc.jobs.last_words import last_words
from hpc.model import JobHandle, JobRequest, JobState, JobStatus, Phase
from hpc.state import directory, files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpc.config import Site
    from hpc.jobs.submission import Cluster
    from hpc.model import ServiceSpec

VARIABLE = "HPC_SERVE_CLUSTER"
LOG_TAIL = 20_000
START_MARK = f"phase {Phase.STARTING.value}"
"""Log line at a replica's start, from ``hpc.node.heartbeat``."""


def default_cluster() -> Cluster:
    """Return the cluster for new jobs: HPC_SERVE_CLUSTER, else "slurm" if Slurm is installed.

    Raises:
        ConfigError: the variable has another value, or this machine belongs to a Slurm cluster
            whose programs are not on PATH.
    """
    said = os.environ.get(VARIABLE)
    choices: dict[str, Cluster] = {"slurm": "slurm", "local": "local"}
    if said in choices:
        return choices[said]
    if said:
        raise ConfigError(f"{VARIABLE}={said!r} is not allowed; allowed: slurm, local")
    missing, sign = slurm.missing_programs(), slurm.sign_of_slurm(os.environ)
    if missing and sign:
        raise ConfigError(
            f"Slurm's programs are not on PATH ({', '.join(missing)}), but {sign}: nothing is"
            " started on this machine, which seems to be part of a Slurm cluster",
            hint="load Slurm's module, or add Slurm's bin folder to PATH; to run on this machine"
            f" all the same: submit --local, or {VARIABLE}=local",
        )
    return "local" if missing else "slurm"


def submit_replica(
    spec: ServiceSpec, root: Path, replica: int, *, cluster: Cluster, site: Site
) -> JobHandle:
    """Submit the job of a replica.

    Args:
        spec: the service.
        root: state directory.
        replica: number of the replica, from 0.
        cluster: "slurm" or "local".
        site: names the container program and a folder of templates.

    Raises:
        SubmitError: the job was refused; nothing is left of the attempt.
        ConfigError: a value cannot stand in a batch script.
    """
    from hpc.jobs import submission
    from hpc.node import ServeReplica

    task = ServeReplica(str(root), spec.name, replica, site.apptainer)
    folder = directory.jobs_dir(root, spec.name)
    if cluster == "slurm":
        return submission.to_slurm(
            task,
            folder=folder,
            text=submission.script(spec, root, replica, templates=site.templates),
            minutes=spec.resources.time_min,
            restarts=spec.max_restarts,
            name=submission.replica_name(spec.name, replica),
        )[0]
    gpus = local.pick_gpus(spec.resources.gpus, replica, os.environ)
    request = JobRequest(spec.name, spec.resources, spec.setup, spec.max_restarts, spec.grace_s)
    return _submit_here(task, request, folder, gpus)


def check_script(spec: ServiceSpec, root: Path, *, site: Site) -> None:
    """Check that a replica's batch script can be rendered.

    Args:
        spec: the service.
        root: state directory.
        site: names a folder of templates.

    Raises:
        ConfigError: a value cannot stand in a batch script.
    """
    from hpc.jobs import submission

    submission.script(spec, root, 0, templates=site.templates)


def submit(
    task: Callable[[], Any],
    request: JobRequest,
    root: Path,
    *,
    cluster: Cluster = "slurm",
    site: Site | None = None,
) -> list[JobHandle]:
    """Submit the runs of a task, all or none; on Slurm as a job or array.

    Args:
        task: picklable by reference.
        request: name, resources and number of runs.
        root: state directory.
        cluster: "slurm" or "local".
        site: names a folder of templates.

    Raises:
        SubmitError: the job was refused; nothing is left of the attempt.
        ConfigError: a value cannot stand in a batch script.
    """
    from hpc.jobs import submission

    folder = directory.plain_job_dir(root, request.name)
    if cluster == "slurm":
        templates = site.templates if site else None
        return submission.to_slurm(
            task,
            folder=folder,
            text=submission.plain_script(request, folder, templates=templates),
            minutes=request.resources.time_min,
            restarts=request.restarts,
            name=submission.plain_name(request.name),
            count=request.count,
        )
    made: list[JobHandle] = []
    try:
        for number in range(request.count):
            gpus = local.pick_gpus(request.resources.gpus, number, os.environ)
            made.append(_submit_here(task, request, folder, gpus))
    except BaseException:
        cancel(made)
        raise
    return made


def _submit_here(
    task: Callable[[], Any], request: JobRequest, folder: Path, gpus: Sequence[str]
) -> JobHandle:
    from hpc.jobs import submission

    minutes = request.resources.time_min or submission.ENDLESS_MIN

    def start(command: str) -> int:
        return local.start(
            folder,
            command,
            env=slurm.without_options(os.environ),
            devices=gpus,
            minutes=minutes,
            grace_s=request.grace_s,
            setup=request.setup,
        )

    return submission.to_local(
        task, folder=folder, start=start, minutes=minutes, restarts=request.restarts
    )


def statuses(handles: Sequence[JobHandle]) -> dict[str, JobStatus]:
    """Return the statuses of jobs, by ``JobHandle.key``; one squeue asks for all of a cluster.

    Args:
        handles: jobs of either kind. A job not yet visible in Slurm is PENDING.
    """
    here, there = _split(handles)
    found = slurm.statuses(there)
    for handle in there:
        if slurm.just_submitted(found[handle.key], handle.submitted_at):
            found[handle.key] = JobStatus(JobState.PENDING, reason="just submitted")
    return found | local.statuses(here)


def drain(handles: Sequence[JobHandle]) -> None:
    """Ask jobs to end by themselves; jobs that have not started are cancelled.

    Raises:
        SchedulerError: Slurm did not answer, or a job runs on another machine.
    """
    here, there = _split(handles)
    local.drain(here)
    slurm.drain(there)


def cancel(handles: Sequence[JobHandle]) -> None:
    """End jobs with all their processes.

    Raises:
        SchedulerError: Slurm did not answer, or a job runs on another machine.
    """
    here, there = _split(handles)
    local.cancel(here)
    slurm.cancel(there)


def logs(handle: JobHandle) -> tuple[Path, Path]:
    """Return the files with a job's standard output and standard error."""
    folder = Path(handle.folder)
    return folder / f"{handle.job_id}_0_log.out", folder / f"{handle.job_id}_0_log.err"


def _split(handles: Sequence[JobHandle]) -> tuple[list[JobHandle], list[JobHandle]]:
    here = [handle for handle in handles if handle.cluster == "local"]
    return here, [handle for handle in handles if handle.cluster != "local"]


def exit_reason(job: JobHandle) -> str | None:
    """Return the cause of a job's end that Slurm wrote to the job's log, or None.

    Args:
        job: a job that has ended.
    """
    text = _last_run(logs(job)[1]) if job.cluster == "slurm" else ""
    return slurm.exit_reason(text) if text else None


def exit_words(job: JobHandle) -> str | None:
    """Return the last meaningful line of a job's log, or None.

    Args:
        job: a job that has ended without a known cause.
    """
    out, err = logs(job)
    return last_words(_last_run(err), _last_run(out))


def _last_run(path: Path) -> str:
    """Return the end of a job's log; a requeued job appends to the log, and its last run counts."""
    text = files.read_text(path) or ""
    return text[-LOG_TAIL:].rpartition(START_MARK)[2]
