"""The status of a replica: the replica's own word joined with the scheduler's. Pure."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, TypeVar

from gateway_lite import errors
from hpc.model import Endpoint, JobState, Phase, ServiceSpec
from hpc.services.phase import join_phase
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.upstream.pool import Peer
    from hpc.config import Backend
    from hpc.model import Endpoint, JobHandle, JobStatus

    Endpoints = Mapping[tuple[str, int], Endpoint | None]
    Look = Callable[[Sequence[JobHandle]], Mapping[str, JobStatus]]

BEST_FIRST = (
    Phase.READY,
    Phase.WARMING,
    Phase.LOADING,
    Phase.STARTING,
    Phase.QUEUED,
    Phase.DRAINING,
    Phase.FAILED,
    Phase.STOPPED,
)
STARTS = frozenset({Phase.STARTING, Phase.LOADING, Phase.WARMING, Phase.READY})
LIVELY = STARTS | {Phase.DRAINING}
RETRY_MOST_S = 120
"""Longest ``retry-after`` in seconds for a job that has yet to start."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of one replica of a service.

    Attributes:
        number: number of the replica, from 0.
        phase: join of the replica's and the scheduler's words.
        job_id: id of its job, if known.
        ends_at: Unix time of the walltime's end, or None.
        start_at: Unix time of the expected start by the scheduler, or None.
        reason: reason of the wait or failure, or None.
        stale: True if the heartbeat stopped without an end being reported.
    """

    number: int
    phase: Phase
    job_id: str | None = None
    ends_at: float | None = None
    start_at: float | None = None
    reason: str | None = None
    stale: bool = False


def phase_of(endpoint: Endpoint | None, now: float) -> Phase:
    """Return a replica's phase by its own word.

    Args:
        endpoint: the replica's last report; None before the first.
        now: Unix time; a READY with a stopped heartbeat counts as STOPPED.
    """
    if endpoint is None:
        return Phase.QUEUED
    alive = now - endpoint.beat_at <= directory.STALE_S
    if endpoint.phase in STARTS and not alive:
        return Phase.STOPPED
    return endpoint.phase


def speaks(endpoint: Endpoint | None, now: float) -> bool:
    """Return whether a replica's own word is enough.

    Args:
        endpoint: the replica's last report, or None.
        now: Unix time; a heartbeat far in the future is as doubtful as an old heartbeat.
    """
    if endpoint is None or endpoint.phase not in LIVELY:
        return False
    return abs(now - endpoint.beat_at) <= directory.STALE_S


def replica_status(
    number: int,
    endpoint: Endpoint | None,
    job: JobHandle | None,
    status: JobStatus | None,
    now: float,
) -> ReplicaStatus:
    """Return the status of a replica.

    Args:
        number: number of the replica.
        endpoint: the replica's last report, or None.
        job: its job, if the replica's own word is not enough.
        status: the scheduler's word on the job; None or UNKNOWN changes nothing.
        now: Unix time.
    """
    own = phase_of(endpoint, now)
    stale = endpoint is not None and own is not endpoint.phase
    ends_at = endpoint.ends_at if endpoint is not None else None
    if job is None or status is None or status.state is JobState.UNKNOWN:
        job_id = job.job_id if job is not None else endpoint.job_id if endpoint else None
        return ReplicaStatus(number, own, job_id, ends_at, stale=stale)
    phase, note = join_phase(job, status, endpoint, now=now)
    if status.state is JobState.PENDING:
        start = status.start_at
        soon = start if start is not None and start > now else None
        return ReplicaStatus(number, phase, job.job_id, start_at=soon, reason=status.reason)
    if phase is Phase.QUEUED and status.state is JobState.RUNNING:
        phase = Phase.STARTING  # requeued and running again, but without a report yet
    return ReplicaStatus(
        number, phase, job.job_id, ends_at or status.end_at, reason=note, stale=stale
    )


def best(members: Iterable[ReplicaStatus]) -> Phase:
    """Return the phase of the replica nearest to serving."""
    return min((one.phase for one in members), key=BEST_FIRST.index, default=Phase.STOPPED)


def not_ready(name: str, model: Model | None, now: float) -> errors.ApiError:
    """Return the error for a request while no replica of its model takes requests.

    Args:
        name: the requested name.
        model: the model; None if no service has it.
        now: Unix time.
    """
    if model is None:
        return errors.model_not_found(name)
    phase = model.phase
    plain = errors.model_not_ready(name, phase)
    waiting = [one for one in model.members if one.phase is phase is Phase.QUEUED]
    starts = [one.start_at for one in waiting if one.start_at is not None and one.start_at > now]
    reason = next((one.reason for one in waiting if one.reason), None)
    message = plain.message + (f"; {reason}" if reason else "")
    headers = dict(plain.headers)
    if starts:
        at = datetime.fromtimestamp(math.ceil(min(starts)), timezone.utc)
        said = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        message += f"; expected to start at {said}"
        wait = min(math.ceil(min(starts) - now), RETRY_MOST_S)
        headers |= {b"retry-after": str(wait).encode(), b"x-model-expected-start": said.encode()}
    return errors.ApiError(
        plain.status, message, code=plain.code, kind=plain.kind, headers=tuple(headers.items())
    )


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Model:
    """One model name at the gateway.

    Attributes:
        name: name in clients' requests.
        phase: phase of the replica nearest to serving.
        asked: number of requested replicas.
        replicas: replicas that take requests.
        members: status of each replica of the service.
        spec: the submitted service; None with static servers only.
        endpoints: last reports of the replicas.
        servers: static servers, run outside hpc-serve.
        identity: fingerprint of the model; empty if unknown.
        base: the model whose replicas serve this one as an adapter, or None.
    """

    name: str
    phase: Phase
    asked: int
    replicas: tuple[Replica, ...]
    members: tuple[ReplicaStatus, ...] = ()
    spec: ServiceSpec | None = None
    endpoints: tuple[Endpoint, ...] = ()
    servers: tuple[Backend, ...] = ()
    identity: str = ""
    base: str | None = None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of all replicas."""
        return (*[Phase.READY] * len(self.servers), *(one.phase for one in self.members))

    @property
    def stale(self) -> int:
        """Return the number of replicas with a stopped heartbeat."""
        return sum(one.stale for one in self.members)

    @property
    def engine(self) -> str | None:
        """Return the engine of all servers, or None if they differ."""
        found = {server.backend for server in self.servers}
        return _only(found | ({self.spec.engine} if self.spec else set()))

    @property
    def revision(self) -> str | None:
        """Return the configured revision of the weights, or None."""
        found = {server.revision for server in self.servers}
        return _only(found | ({self.spec.revision} if self.spec else set()))


def _only(found: Collection[T]) -> T | None:
    """Return the common value of all, or None."""
    return next(iter(found)) if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models at one moment."""

    models: Mapping[str, Model] = field(default_factory=dict)

    def pools(self) -> dict[str, Sequence[Replica]]:
        """Return the replicas that take requests, by model."""
        return {name: model.replicas for name, model in self.models.items()}

    def bases(self) -> dict[str, str]:
        """Return the model behind each adapter."""
        return {name: model.base for name, model in self.models.items() if model.base}

    def peers(self) -> set[Peer]:
        """Return the far ends of all replicas that take requests."""
        return {replica.peer for model in self.models.values() for replica in model.replicas}


def identity(endpoint: Endpoint) -> str:
    """Return a replica's key for the balancer: another job or port is another replica."""
    place = f"{endpoint.host}:{endpoint.port}"
    return f"{endpoint.service}/{endpoint.replica}@{endpoint.job_id}/{place}"


def mark(told: ServiceSpec | Backend) -> str:
    """Return a fingerprint of the model.

    The fingerprint stays equal as long as engine, weights, revision, image and arguments are equal.

    Args:
        told: a service, or a static server; the fingerprint of a server without revision is empty.
    """
    if isinstance(told, ServiceSpec):
        parts = [told.engine, told.server, told.model, told.revision, told.image]
        parts += [repr(sorted(told.engine_args.items()))]
    elif told.revision is None:
        return ""
    else:
        parts = [told.backend, told.url, told.revision]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
