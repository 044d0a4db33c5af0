"""Schedules: batches that run repeatedly, and the results of their runs.

Slurm starts the runs: by the user's scrontab where the site has scrontab, otherwise by a small job
that submits its successor before anything else. Both run ``hpc-serve batch tick ID``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.batch.schedule import cron
from hpc.errors import BatchError, ConfigError, HpcServeError
from hpc.jobs import api as jobs
from hpc.model import JobHandle, JobRequest, Resources
from hpc.processes import own_python, programs
from hpc.slurm import scrontab
from hpc.state import directory, files, private, records

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpc.config import Site

SCRONTAB, JOB = "scrontab", "job"
MINUTES = 60
MEM_MB = 1000
RUNS_KEPT = 100
PLACES = ("{date}", "{time}")
# Only variables that change a submission: a schedule outlives the session that made it.
KEPT_ENV = re.compile(r"HPC_SERVE_|PATH$|APPTAINER_|SINGULARITY_")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A batch that runs repeatedly.

    Attributes:
        when: five fields of crontab(5), in numbers.
        words: arguments of ``hpc-serve batch submit``; {date} and {time} are those of the run.
        cwd: working directory for relative paths in ``words``.
        via: "scrontab" or "job".
        env: the user's variables that change a submission.
        resources: resources of the small job that starts a run.
        made_at: Unix time.
        home: state directory as the user named it, since ids repeat between state directories.
        umask: the user's umask, for the outputs.
    """

    id: str
    when: str
    words: tuple[str, ...]
    cwd: str
    via: str
    env: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    made_at: float = 0.0
    home: str = ""
    umask: int = 0o077
    schema: int = 1


@dataclass(frozen=True, slots=True)
class StartRun:
    """The job that starts a run on a site without scrontab; submitit pickles this object."""

    home: str
    id: str

    def __call__(self) -> None:
        """Submit the successor of this job, then start the run that is due now."""
        from hpc import config  # noqa: PLC0415 - only in a job

        root = Path(self.home)
        found = load(root, self.id)
        _submit_next(root, found, config.load(home=self.home).site)
        env = own_python.environment({**os.environ, **found.env})
        programs.run_attached(command(root, self.id), env=env)


def make(
    root: Path,
    *,
    when: str,
    words: Sequence[str],
    output: str,
    resources: Resources,
    partition: str | None,
    site: Site,
) -> Schedule:
    """Register a schedule with Slurm that repeats ``batch submit`` with the same arguments.

    Args:
        root: state directory.
        when: five fields of crontab(5).
        words: arguments of ``batch submit``.
        output: the output file, whose name must differ from run to run.
        resources: resources of the model; the small job takes partition and account from here.
        partition: partition of the small job; None is the model's.
        site: names templates.

    Raises:
        ConfigError: the arguments are not usable.
        SchedulerError: Slurm refused the schedule.
    """
    numbers = cron.in_numbers(when)
    if not any(place in output for place in PLACES):
        raise ConfigError(
            f"the output {output!r} would be overwritten by the next run",
            hint="put {date} or {time} into its name, such as answers-{date}.jsonl",
        )
    if jobs.default_cluster() != "slurm":
        raise ConfigError("--every needs Slurm, and this machine has no Slurm")
    small = Resources(
        partition=partition or resources.partition,
        account=resources.account,
        qos=resources.qos if partition is None else None,
        # As the site takes it: some sites refuse --mem.
        mem_mb=None if resources.mem_mb is None else MEM_MB,
        mem_per_cpu=None if resources.mem_per_cpu is None else MEM_MB,
        time_min=MINUTES,
    )
    env = {name: value for name, value in os.environ.items() if KEPT_ENV.match(name)}
    via = JOB if scrontab.read() is None else SCRONTAB
    made = Schedule(
        _fresh_id(root),
        numbers,
        tuple(words),
        str(Path.cwd()),
        via,
        env,
        small,
        time.time(),
        str(root),
        private.user_umask(),
    )
    # The record first: a run that starts at once must find its schedule.
    records.write_record(folder_of(root, made.id) / "schedule.json", made)
    try:
        if via == SCRONTAB:
            scrontab.put(mark(made), entry(root, made))
        else:
            _submit_next(root, made, site)
    except BaseException:
        shutil.rmtree(folder_of(root, made.id), ignore_errors=True)
        raise
    return made


def entry(root: Path, schedule: Schedule) -> list[str]:
    """Return the scrontab lines that start the runs.

    Raises:
        ConfigError: a path holds characters that scrontab would replace.
    """
    words = shlex.join(command(root, schedule.id))
    if "$" in words or "\n" in words:
        raise ConfigError(f"scrontab cannot run this: {words}")
    small = schedule.resources
    options = {
        "job-name": f"hpc-serve-{schedule.id}",
        "partition": small.partition,
        "account": small.account,
        "qos": small.qos,
        "mem": f"{MEM_MB}M",
        "time": str(MINUTES),
        "output": str(folder_of(root, schedule.id) / "log"),
        "open-mode": "append",
    }
    told = [f"#SCRON --{name}={value}" for name, value in options.items() if value]
    return [*told, f"{schedule.when} {words}"]


def command(root: Path, schedule_id: str) -> list[str]:
    """Return the command that starts a due run."""
    return own_python.argv("hpc", "batch", "tick", schedule_id, "--home", str(root))


def mark(schedule: Schedule) -> str:
    """Return the name of a schedule in the scrontab, which all state directories share."""
    return f"{schedule.id} of {schedule.home}"


def load(root: Path, schedule_id: str) -> Schedule:
    """Return a schedule.

    Raises:
        BatchError: no schedule has this id.
    """
    found = records.read_record(folder_of(root, schedule_id) / "schedule.json", Schedule)
    if found is None:
        raise BatchError(
            f"there is no schedule {schedule_id!r}", hint="see 'hpc-serve batch schedules'"
        )
    return found


def load_all(root: Path) -> list[Schedule]:
    """Return all schedules."""
    paths = sorted(directory.schedules_dir(root).glob("*/schedule.json"))
    found = (records.read_record(path, Schedule) for path in paths)
    return [one for one in found if one is not None]


def remove(root: Path, schedule_id: str) -> None:
    """End a schedule; a run that has begun goes on.

    Raises:
        BatchError: no schedule has this id.
        SchedulerError: Slurm did not accept the change.
    """
    found = load(root, schedule_id)
    folder = folder_of(root, schedule_id)
    if found.via == SCRONTAB:
        scrontab.drop(mark(found))
    waiting = waits(root, schedule_id)
    shutil.rmtree(folder)  # before the job: a job that begins now must not submit a successor
    if waiting is not None:
        jobs.cancel([waiting])


def waits(root: Path, schedule_id: str) -> JobHandle | None:
    """Return the job that will start the next run; None with scrontab."""
    return records.read_record(folder_of(root, schedule_id) / "job.json", JobHandle)


def trouble(root: Path, schedule: Schedule) -> str | None:
    """Return the reason why no run will follow, such as a cancelled job, or None."""
    if schedule.via == SCRONTAB:
        text = scrontab.read()
        lines = [] if text is None else text.splitlines()
        words = " " + shlex.join(["tick", schedule.id, "--home", schedule.home])
        there = text is None or any(
            line.rstrip().endswith(words) and not line.startswith("#") for line in lines
        )
        return None if there else "its line is gone from your scrontab"
    handle = waits(root, schedule.id)
    if handle is None:
        return "no job is queued for the next run"
    over = jobs.statuses([handle])[handle.key].state.over
    return f"job {handle.job_id}, which was to start it, is over" if over else None


def runs(root: Path, schedule_id: str) -> list[dict[str, Any]]:
    """Return the results of the runs: time, result, text and batch, oldest first."""
    with contextlib.suppress(ValueError):
        found: list[dict[str, Any]] = json.loads(
            files.read_text(folder_of(root, schedule_id) / "runs.json") or ""
        )
        return found
    return []


def record(root: Path, schedule_id: str, result: str, text: str, batch: str | None) -> None:
    """Record the result of a run."""
    now = {"at": time.time(), "result": result, "text": text, "batch": batch}
    kept = [*runs(root, schedule_id), now][-RUNS_KEPT:]
    files.write_text(folder_of(root, schedule_id) / "runs.json", json.dumps(kept, indent=1) + "\n")


def _submit_next(root: Path, schedule: Schedule, site: Site) -> None:
    """Submit the job that starts the next run."""
    begin = cron.following(schedule.when).strftime("%Y-%m-%dT%H:%M:%S")
    resources = replace(schedule.resources, extra={"begin": begin})
    request = JobRequest(f"schedule-{schedule.id}", resources)
    task = StartRun(str(root), schedule.id)
    (handle,) = jobs.submit(task, request, root, cluster="slurm", site=site)
    try:
        records.write_record(folder_of(root, schedule.id) / "job.json", handle)
    except HpcServeError:
        jobs.cancel([handle])
        raise


def _fresh_id(root: Path) -> str:
    for number in range(1, 10_000):
        try:
            files.make_folder(folder_of(root, f"every-{number}"), exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise BatchError(f"cannot write to {root}: {error.strerror}") from error
        return f"every-{number}"
    raise BatchError("cannot name the schedule: ten thousand schedules exist already")


def folder_of(root: Path, schedule_id: str) -> Path:
    """Return the folder of a schedule."""
    return directory.schedules_dir(root) / schedule_id
