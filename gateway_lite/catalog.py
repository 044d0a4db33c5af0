"""Which models there are, and which replicas of each take requests: read from the state directory.

Everything here blocks, as a shared file system may, and belongs to the watching thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway_lite.replicas import Replica
from hpc import state
from hpc.model import Endpoint, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from hpc.config import Backend
    from hpc.model import ServiceSpec

BEST_FIRST = (
    Phase.READY,
    Phase.LOADING,
    Phase.STARTING,
    Phase.QUEUED,
    Phase.DRAINING,
    Phase.FAILED,
    Phase.STOPPED,
)


@dataclass(frozen=True, slots=True)
class Model:
    """One name at the gateway.

    Attributes:
        name: what clients ask for.
        phase: that of the replica nearest to serving.
        asked: replicas that there should be.
        replicas: those that take requests.
        phases: those of all replicas.
        stale: replicas whose heartbeat stopped.
        spec: what was submitted; None for servers that somebody else runs.
        endpoints: what its replicas last said of themselves.
    """

    name: str
    phase: Phase
    asked: int
    replicas: tuple[Replica, ...]
    phases: tuple[Phase, ...] = ()
    stale: int = 0
    spec: ServiceSpec | None = None
    endpoints: tuple[Endpoint, ...] = ()

    def identity(self) -> str:
        """Return what says that it is the same model as before; empty where nobody knows."""
        spec = self.spec
        if spec is None:
            return ""
        options = sorted(spec.engine_args.items())
        return f"{spec.server} {spec.model} {spec.revision} {spec.image} {options}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models at one moment."""

    models: Mapping[str, Model] = field(default_factory=dict)

    def pools(self) -> dict[str, Sequence[Replica]]:
        """Return the replicas that take requests, by model."""
        return {name: model.replicas for name, model in self.models.items()}

    def addresses(self) -> set[str]:
        """Return where the replicas that take requests listen."""
        return {replica.url for model in self.models.values() for replica in model.replicas}


def phase_of(endpoint: Endpoint | None, now: float) -> Phase:
    """Return what a replica can be taken to do.

    Args:
        endpoint: what it last said of itself; None where it said nothing yet.
        now: Unix time; a READY whose heartbeat stopped counts as STOPPED.
    """
    if endpoint is None:
        return Phase.QUEUED
    alive = now - endpoint.beat_at <= state.STALE_S
    if endpoint.phase in (Phase.READY, Phase.LOADING, Phase.STARTING) and not alive:
        return Phase.STOPPED
    return endpoint.phase


def identity(endpoint: Endpoint) -> str:
    """Return what a replica is to the balancer: another job or port is another replica."""
    place = f"{endpoint.host}:{endpoint.port}"
    return f"{endpoint.service}/{endpoint.replica}@{endpoint.job_id}/{place}"


def static_models(backends: Sequence[Backend]) -> dict[str, list[Replica]]:
    """Return the servers that somebody else runs, by model."""
    found: dict[str, list[Replica]] = {}
    for backend in backends:
        replica = Replica(
            key=f"{backend.name} {backend.url}",
            name=backend.name,
            url=backend.url.rstrip("/").removesuffix("/v1"),
            secret=os.environ.get(backend.api_key_env) if backend.api_key_env else None,
        )
        found.setdefault(backend.name, []).append(replica)
    return found


class Scanner:
    """Reads the state directory again and again, and remembers what it could read.

    Args:
        root: the state directory.
        backends: static servers.
    """

    def __init__(self, root: Path, backends: Sequence[Backend] = ()) -> None:
        self._root = root
        self._static = static_models(backends)
        self._known: dict[str, ServiceSpec] = {}
        self._endpoints: dict[tuple[str, int], Endpoint] = {}
        self._secrets: dict[str, str] = {}

    def serve(self, backends: Sequence[Backend]) -> None:
        """Take over other static servers, from the next scan on."""
        self._static = static_models(backends)

    def scan(self, now: float, refused: Collection[str] = ()) -> Catalog:
        """Return what is there.

        Args:
            now: Unix time.
            refused: keys of replicas that did not take their secret; it is read again.

        Raises:
            OSError: the state directory cannot be read; what was known still holds.
        """
        self._root.stat()
        for key in refused:
            self._secrets.pop(key, None)
        self._find_services()
        models = {name: self._model(spec, now) for name, spec in self._known.items()}
        for name, servers in self._static.items():
            own = models.get(name)
            replicas = (*servers, *(own.replicas if own else ()))
            asked = len(servers) + (own.asked if own else 0)
            phases = (*[Phase.READY] * len(servers), *(own.phases if own else ()))
            stale = own.stale if own else 0
            told = own.endpoints if own else ()
            models[name] = Model(name, Phase.READY, asked, replicas, phases, stale, endpoints=told)
        self._prune(models)
        return Catalog(dict(sorted(models.items())))

    def _find_services(self) -> None:
        """Look services up by the names known before too, as NFS caches listings."""
        for name in {*state.services(self._root), *self._known}:
            spec = state.load_spec(self._root, name)
            if spec is not None:
                self._known[name] = spec
            elif not state.service_dir(self._root, name).exists():
                self._known.pop(name, None)

    def _model(self, spec: ServiceSpec, now: float) -> Model:
        name, asked = spec.name, spec.replicas
        phases, replicas, endpoints = [], [], []
        stale = 0
        for number in range(asked):
            endpoint = self._endpoint(name, number)
            phase = phase_of(endpoint, now)
            phases.append(phase)
            if endpoint is not None:
                endpoints.append(endpoint)
            stale += endpoint is not None and phase is not endpoint.phase
            if endpoint is not None and phase is Phase.READY and endpoint.port:
                replicas.append(self._replica(endpoint))
        best = min(phases, key=BEST_FIRST.index, default=Phase.STOPPED)
        usable = tuple(r for r in replicas if r.secret)
        return Model(name, best, asked, usable, tuple(phases), stale, spec, tuple(endpoints))

    def _endpoint(self, name: str, number: int) -> Endpoint | None:
        """Return the record; where it cannot be read, the last one, once."""
        found = state.load_endpoint(self._root, name, number)
        if found is None:
            return self._endpoints.pop((name, number), None)
        self._endpoints[name, number] = found
        return found

    def _replica(self, endpoint: Endpoint) -> Replica:
        key = identity(endpoint)
        if key not in self._secrets:
            secret = state.load_secret(self._root, endpoint.service, endpoint.replica)
            if secret is not None:
                self._secrets[key] = secret
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        return Replica(
            key=key,
            name=f"{endpoint.service}/{endpoint.replica}",
            url=f"http://{host}:{endpoint.port}",
            secret=self._secrets.get(key),
            slots=endpoint.slots,
        )

    def _prune(self, models: Mapping[str, Model]) -> None:
        """Forget the records and secrets of what is gone."""
        live = {replica.key for model in models.values() for replica in model.replicas}
        self._secrets = {key: secret for key, secret in self._secrets.items() if key in live}
        kept = {(n, number) for n, spec in self._known.items() for number in range(spec.replicas)}
        self._endpoints = {k: v for k, v in self._endpoints.items() if k in kept}
