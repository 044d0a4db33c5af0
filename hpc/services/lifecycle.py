"""The life of a service: submission, status, wait and stop."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from hpc.errors import ConfigError, EngineError, SchedulerError, did_you_mean
from hpc.jobs import api as jobs
from hpc.jobs import planning
from hpc.model import JobState, JobStatus, Phase
from hpc.services.phase import (
    NO_ANSWER,
    OVER,
    ReplicaView,
    Service,
    doubted,
    join_phase,
    of_this_run,
)
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from hpc.config import Config
    from hpc.engines.plan import LaunchPlan
    from hpc.model import JobHandle, ServiceSpec

FILES_EVERY_S = 0.5
SCHEDULER_EVERY_S = 5.0
STOP_PATIENCE_S = 60.0
VAGUE = re.compile(r"exit status|killed by signal|it failed|said nothing")
"""Ends of a job of which Slurm does not know the cause."""


def submit(
    config: Config,
    name: str,
    *,
    cluster: Literal["slurm", "local"] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> ServiceSpec:
    """Submit a job for each replica of a service; all or none.

    Args:
        config: the resolved configuration.
        name: name of the service.
        cluster: "slurm" or "local"; None detects Slurm.
        tell: called with each note of the plan.

    Raises:
        ConfigError: the service does not exist, runs already, or its engine would not start.
        EngineError: the image or the model is missing.
        SchedulerError: a job was refused; earlier jobs of the submission are cancelled.
    """
    where = cluster or jobs.default_cluster()
    planned = plan_of(config, name, cluster=where)
    spec = planned.spec
    for note in planned.notes:
        tell(note)
    _clear_ended(config.home, name)
    submitted: list[JobHandle] = []
    try:
        directory.save_spec(config.home, spec)
        for number in range(spec.replicas):
            job = jobs.submit_replica(spec, config.home, number, cluster=where, site=config.site)
            submitted.append(job)
            directory.save_job(config.home, name, number, job)
    except BaseException:
        _abandon(config.home, name, submitted)
        raise
    return spec


def plan_of(
    config: Config, name: str, *, cluster: Literal["slurm", "local"] | None = None
) -> LaunchPlan:
    """Return the plan of a service's submission, after every check without a scheduler.

    Args:
        config: the resolved configuration.
        name: name of the service.
        cluster: "slurm" or "local"; None detects Slurm.

    Raises:
        ConfigError: the service does not exist, or its job or engine would be refused.
        EngineError: the image or the model is missing.
    """
    where = cluster or jobs.default_cluster()
    planned = planning.planned(wanted(config, name), cluster=where)
    if where == "slurm":
        jobs.check_script(planned.spec, config.home, site=config.site)
    return planned


def wanted(config: Config, name: str) -> ServiceSpec:
    """Return a service of the configuration, for submission.

    Raises:
        ConfigError: the configuration has no such service.
    """
    if name in config.services:
        return config.services[name]
    if any(backend.name == name for backend in config.backends):
        raise ConfigError(f"{name!r} is a static backend: it has an address and needs no job")
    known = ", ".join(sorted(config.services)) or "none"
    where = config.models_file or "models.yaml"
    meant = did_you_mean(name, config.services)
    raise ConfigError(f"{where} has no model {name!r} to submit{meant}; it has: {known}")


def _clear_ended(root: Path, name: str) -> None:
    """Remove an ended service's records, unless a job lives or may live."""
    if directory.load_spec(root, name) is None:
        return
    found = look(root, [name])[0]
    if not all(replica.ended for replica in found.replicas):
        raise ConfigError(
            f"the service {name!r} runs already", hint=f"see 'hpc-serve status {name}', or stop it"
        )
    # A job that is ending may have been about to return to the queue.
    jobs.cancel([r.job for r in found.replicas if r.job is not None and r.status.state.alive])
    directory.drop_service(root, name)


def _abandon(root: Path, name: str, submitted: Sequence[JobHandle]) -> None:
    """Cancel the jobs of a failed submission; records of living jobs stay.

    Raises:
        SchedulerError: Slurm did not answer.
    """
    try:
        jobs.cancel(submitted)
    except SchedulerError as error:
        ids = ", ".join(job.job_id for job in submitted)
        raise SchedulerError(
            f"the submission of {name!r} failed, and its jobs {ids} are not cancelled: {error}",
            hint=f"'hpc-serve stop {name}' ends them once Slurm answers",
        ) from error
    directory.drop_service(root, name)


def look(root: Path, names: Iterable[str] | None = None) -> list[Service]:
    """Return the current states of services, with a single query of the scheduler for all.

    Args:
        root: state directory.
        names: services; None is all.
    """
    chosen = directory.services(root) if names is None else names
    specs = [directory.load_spec(root, name) for name in chosen]
    found = [spec for spec in specs if spec is not None]
    handles = {
        (spec.name, n): directory.load_job(root, spec.name, n)
        for spec in found
        for n in range(spec.replicas)
    }
    statuses = jobs.statuses([job for job in handles.values() if job is not None])
    return [_service(root, spec, handles, statuses) for spec in found]


def _service(
    root: Path,
    spec: ServiceSpec,
    handles: Mapping[tuple[str, int], JobHandle | None],
    statuses: Mapping[str, JobStatus],
) -> Service:
    replicas = []
    for number in range(spec.replicas):
        job = handles[spec.name, number]
        endpoint = directory.load_endpoint(root, spec.name, number)
        now = time.time()
        status = JobStatus(JobState.GONE)
        if job:
            status = doubted(statuses.get(job.key, NO_ANSWER), job, endpoint, now=now)
        phase, note = join_phase(job, status, endpoint, now=now)
        told_cause = job and of_this_run(endpoint, job, status) and endpoint and endpoint.cause
        if job and phase is Phase.FAILED and not told_cause:
            note = _cause_of_death(job, note)
        replicas.append(ReplicaView(number, phase, note, job, status, endpoint))
    return Service(spec, tuple(replicas))


def _cause_of_death(job: JobHandle, note: str | None) -> str | None:
    """Return the reason of a job's end: Slurm's in the job's log, else the job's last line too."""
    if told := jobs.exit_reason(job):
        return f"the job ended: {told}"
    words = jobs.exit_words(job) if note is None or VAGUE.search(note) else None
    return f"{note}: {words}" if note and words else words or note


def find(root: Path, name: str) -> Service:
    """Return the current state of a service.

    Raises:
        ConfigError: the service does not exist.
    """
    found = look(root, [name])
    if not found:
        known = ", ".join(directory.services(root)) or "none"
        meant = did_you_mean(name, directory.services(root))
        raise ConfigError(f"there is no service {name!r}{meant}; there are: {known}")
    return found[0]


def wait(
    root: Path,
    name: str,
    *,
    timeout_s: float | None = None,
    tell: Callable[[Service], None] = lambda _: None,
) -> Service:
    """Wait until every replica of a service is ready.

    The records are read twice a second, the scheduler is asked every five seconds.

    Args:
        root: state directory.
        name: the service.
        timeout_s: longest wait in seconds; None is for ever.
        tell: called with each reading, for progress.

    Raises:
        ConfigError: the service does not exist.
        EngineError: a replica failed or ended, or the time is over.
        SchedulerError: a replica's job waits for what no time brings, such as a shorter walltime.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = find(root, name)
    asked = time.monotonic()
    while True:
        tell(seen)
        failed = next((r for r in seen.replicas if r.phase in OVER), None)
        if failed is not None:
            raise EngineError(f"replica {failed.number} of {name!r} {_ending(failed)}")
        if seen.ready == len(seen.replicas):
            return seen
        _check_may_start(seen)
        if deadline is not None and time.monotonic() > deadline:
            raise EngineError(f"{name!r} is not ready after {timeout_s:g} s")
        time.sleep(FILES_EVERY_S)
        if time.monotonic() - asked >= SCHEDULER_EVERY_S or _changed(root, seen):
            seen, asked = find(root, name), time.monotonic()


def _check_may_start(seen: Service) -> None:
    """Refuse to wait for a job that starts only after somebody's action."""
    name = seen.spec.name
    for one in seen.replicas:
        if one.phase is Phase.QUEUED and one.status.blocked:
            job_id = one.job.job_id if one.job else ""
            raise SchedulerError(
                f"replica {one.number} of {name!r} waits in vain (job {job_id}): {one.note}",
                hint=f"free a held job with 'scontrol release {job_id}'; otherwise"
                f" 'hpc-serve stop {name}', and submit with other resources",
            )


def _ending(replica: ReplicaView) -> str:
    verb = "failed" if replica.phase is Phase.FAILED else "was stopped"
    return f"{verb}: {replica.note}" if replica.note else f"{verb} before it was ready"


def _changed(root: Path, seen: Service) -> bool:
    """Return whether a node has published a new phase since the last reading."""
    for replica in seen.replicas:
        now = directory.load_endpoint(root, seen.spec.name, replica.number)
        before = replica.endpoint.phase if replica.endpoint else None
        if now is not None and now.phase is not before:
            return True
    return False


def stop(root: Path, name: str, *, force: bool = False) -> list[JobHandle]:
    """End the jobs of a service, wait for their end, and remove the service's records.

    Running replicas are asked to drain first.

    Args:
        root: state directory.
        name: the service.
        force: cancel at once, and remove the records whatever the scheduler says.

    Returns:
        The jobs that were not seen to end; none without force.

    Raises:
        ConfigError: the service does not exist.
        SchedulerError: a job could not be ended; the records stay.
    """
    handles = _unended(root, name)
    if force:
        with suppress(SchedulerError):
            jobs.cancel(handles)
        left = _unended(root, name)
    else:
        jobs.drain(handles)
        left = _wait_ended(root, name, STOP_PATIENCE_S / 2)
        if left:
            jobs.cancel(left)
            left = _wait_ended(root, name, STOP_PATIENCE_S)
        if left:
            ids = ", ".join(job.job_id for job in left)
            raise SchedulerError(
                f"jobs {ids} of {name!r} have not ended; its records stay",
                hint=f"try again later; to forget them all the same: hpc-serve stop --force {name}",
            )
    directory.drop_service(root, name)
    return left


def _unended(root: Path, name: str) -> list[JobHandle]:
    """Return the jobs of a service without an end.

    Raises:
        ConfigError: the service does not exist.
    """
    found = find(root, name)
    return [r.job for r in found.replicas if r.job is not None and not r.ended]


def _wait_ended(root: Path, name: str, patience_s: float) -> list[JobHandle]:
    """Wait for the ends of a service's jobs, and return the jobs without an end in time."""
    deadline = time.monotonic() + patience_s
    while left := _unended(root, name):
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return left
