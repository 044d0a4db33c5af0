"""Jobs through submitit: its ids, pickles, logs and requeues, with our batch script."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from submitit.core.utils import JobPaths

from hpc import render, slurm
from hpc.errors import CommandError, ConfigError, SchedulerError, SubmitError
from hpc.jobs import submitit_executors
from hpc.model import JobHandle
from hpc.processes import own_python
from hpc.state import directory, files, private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from submitit.local.local import LocalExecutor
    from submitit.slurm.slurm import SlurmExecutor

    from hpc.model import JobRequest, ServiceSpec

Cluster = Literal["slurm", "local"]

ENDLESS_MIN = 10 * 365 * 24 * 60
"""The number of minutes that means no walltime for submitit, which wants a number."""

_PREFIX = re.compile(r"^(sbatch: )?((error|fatal): )?")
_FAILED = "Batch job submission failed: "
_TOO_MANY = "the site's MaxArraySize limits the elements of one array (scontrol show config)"


def script(spec: ServiceSpec, root: Path, replica: int, *, templates: Path | None = None) -> str:
    """Return the batch script of a replica, byte for byte as a submission sends it.

    Args:
        spec: the service.
        root: state directory.
        replica: number of the replica, from 0.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: a value cannot stand in a batch script.
    """
    folder = directory.jobs_dir(root, spec.name)
    stdout, stderr = log_patterns(folder)
    job = render.SbatchJob(
        command=task_command(folder),
        folder=str(folder),
        stdout=stdout,
        stderr=stderr,
        job_name=replica_name(spec.name, replica),
        signal_s=spec.grace_s,
    )
    return render.sbatch(spec, job, templates)


def plain_script(request: JobRequest, folder: Path, *, templates: Path | None = None) -> str:
    """Return the batch script of a job without a service, such as an image build.

    Args:
        request: name, resources and number of runs; more than one makes an array.
        folder: folder of submitit's files.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: a value cannot stand in a batch script, or a site's template lacks arrays.
    """
    several = request.count > 1
    stdout, stderr = log_patterns(folder, array=several)
    job = render.SbatchJob(
        command=task_command(folder),
        folder=str(folder),
        stdout=stdout,
        stderr=stderr,
        job_name=plain_name(request.name),
        signal_s=request.grace_s,
        array=f"0-{request.count - 1}" if several else None,
        requeue=request.restarts > 0,
    )
    text = render.script("batch", job, request.resources, setup=request.setup, templates=templates)
    if job.array and render.directive("array", job.array) not in text.splitlines():
        raise ConfigError(
            f"the templates in {templates} leave out the array of a job that runs"
            f" {request.count} times",
            hint="add job.array to their directives, as our base.sbatch.j2 has it",
        )
    return text


def replica_name(service: str, replica: int) -> str:
    """Return the begin of a replica's job name in Slurm."""
    return f"hpc-serve-{service}-{replica}"


def plain_name(name: str) -> str:
    """Return the begin of another job's name in Slurm."""
    return f"hpc-serve-{name}"


def task_command(folder: Path) -> str:
    """Return the shell command that runs the task of a job.

    The user's umask is part of it: Slurm may start the job without our variables, and results
    have the permissions of the submission's umask.
    """
    umask = f"--umask={private.user_umask():03o}"
    return shlex.join(own_python.argv("hpc.jobs.run_task", umask, str(folder), options=("-u",)))


def log_patterns(folder: Path, *, array: bool = False) -> tuple[str, str]:
    """Return the files for a job's or an array's outputs, as sbatch file name patterns.

    Raises:
        ConfigError: the folder's path has a character with a special meaning in a pattern.
    """
    for mark in "%\\":
        if mark in str(folder):
            raise ConfigError(
                f"jobs cannot write to {folder}: Slurm expands the {mark} in its path"
            )
    paths = JobPaths(folder, "%A_%a" if array else None)
    return str(paths.stdout).replace("%t", "0"), str(paths.stderr).replace("%t", "0")


def to_slurm(
    task: Callable[[], Any],
    *,
    folder: Path,
    text: str,
    minutes: int | None,
    restarts: int = 0,
    name: str = "hpc-serve",
    count: int = 1,
) -> list[JobHandle]:
    """Submit a task to Slurm, all its runs with one sbatch.

    Args:
        task: picklable by reference, since the job's Python imports the task.
        folder: folder for script, pickles and logs.
        text: the batch script.
        minutes: walltime; 0 is UNLIMITED, None the partition's default.
        restarts: requeues at walltime.
        name: begin of the job's name, which gets an end of its own.
        count: number of runs, as in the text.

    Returns:
        One job, or the elements of an array, whose ids are ``ARRAY_INDEX``.

    Raises:
        SubmitError: Slurm refused the job, or did not say; nothing is left of the attempt.
    """
    own_name, sent = f"{name}-{secrets.token_hex(4)}", list[JobHandle]()

    def send(script: Path) -> slurm.Submitted:
        made = slurm.submit(script, own_name)
        place = made.cluster, made.named
        sent.append(JobHandle(made.job_id, "slurm", str(folder), time.time(), own_name, *place))
        return made

    # Without a known walltime every USR2 counts as a timeout, so that restarts stay limited.
    limit = {None: 0, 0: ENDLESS_MIN}.get(minutes, minutes)
    try:
        with _staging(folder) as staging:
            executor = submitit_executors.Slurm(staging, task_command(folder), text, send)
            executor.max_num_timeout = restarts
            executor.parameters["time"] = limit
            made = _submit(executor, [task] * count, folder, "slurm")
    except BaseException:
        with contextlib.suppress(SchedulerError):  # a job without its pickle ends by itself
            slurm.cancel(sent)
        raise
    return [replace(sent[0], job_id=job.job_id, submitted_at=job.submitted_at) for job in made]


def to_local(
    task: Callable[[], Any],
    *,
    folder: Path,
    start: Callable[[str], int],
    minutes: int | None,
    restarts: int = 0,
) -> JobHandle:
    """Submit a task to this machine.

    Args:
        task: picklable by reference.
        folder: folder for pickles and logs.
        start: starts submitit's controller with a command, and returns its process id.
        minutes: walltime; 0 and None are no limit.
        restarts: restarts at walltime.

    Raises:
        SubmitError: the folder cannot be written to.
        CommandError: the controller did not start.
    """
    with _staging(folder) as staging:
        executor = submitit_executors.Local(staging, task_command(folder), start)
        executor.max_num_timeout = restarts
        executor.parameters["timeout_min"] = minutes or ENDLESS_MIN
        return _submit(executor, [task], folder, "local")[0]


def _submit(
    executor: SlurmExecutor | LocalExecutor,
    tasks: Sequence[Callable[[], Any]],
    folder: Path,
    cluster: Cluster,
) -> list[JobHandle]:
    submitted_at = time.time()
    try:
        made = executor.submit_array(tasks)
    except CommandError as error:
        if error.returncode is None or cluster == "local":
            raise
        hint = _TOO_MANY if "job array" in error.stderr else None
        raise SubmitError(f"Slurm refused the job: {_refusal(error.stderr)}", hint=hint) from error
    except OSError as error:
        raise SubmitError(f"cannot submit from {folder}: {error.strerror or error}") from error
    for job in made:
        for path in (job.paths.submission_file, job.paths.submitted_pickle):
            if path.exists():  # the elements of an array share a script
                path.rename(folder / path.name)
    return [JobHandle(job.job_id, cluster, str(folder), submitted_at) for job in made]


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the job's files, removed with all files of a refused job.

    A job that starts at once waits for its pickle, so the move may follow the submission.
    """
    try:
        files.make_folder(folder)
        with tempfile.TemporaryDirectory(
            prefix=".submit-", dir=folder, ignore_cleanup_errors=True
        ) as staging:
            yield Path(staging)
    except OSError as error:
        raise SubmitError(f"cannot write to {folder}: {error.strerror}") from error


def _refusal(stderr: str) -> str:
    """Return sbatch's specific message, which precedes its general one."""
    lines = [_PREFIX.sub("", line.strip()).rstrip(".") for line in stderr.splitlines()]
    lines = [line for line in lines if line] or ["it did not say why"]
    general = [line.removeprefix(_FAILED) for line in lines if line.startswith(_FAILED)]
    special = [line for line in lines if not line.startswith(_FAILED)]
    if general and special and not any(" " in line for line in special):
        told = f"{general[-1]} ({', '.join(special)})"  # such as AssocMaxSubmitJobLimit
    else:
        told = "; ".join(special or general[-1:])
    return told[:1].lower() + told[1:] if told[1:2].islower() else told
