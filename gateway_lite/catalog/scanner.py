"""The catalog of models and their replicas, read from the state directory.

All functions here block, as a shared file system may, and run in the watching thread.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway_lite.catalog.models import (
    Catalog,
    Model,
    ReplicaStatus,
    _only,
    best,
    identity,
    mark,
    replica_status,
    speaks,
)
from gateway_lite.catalog.replica import Replica
from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from hpc.config import Backend
    from hpc.model import JobHandle, JobStatus

    Endpoints = Mapping[tuple[str, int], Endpoint | None]
    Look = Callable[[Sequence[JobHandle]], Mapping[str, JobStatus]]


def nobody(jobs: Sequence[JobHandle]) -> Mapping[str, JobStatus]:
    """Return no job states, as without a scheduler."""
    del jobs
    return {}


def joined(name: str, servers: Sequence[Backend], own: Model | None) -> Model:
    """Return a model with static servers.

    Args:
        name: name of the model.
        servers: its static servers, at least one.
        own: the same model as a service, or None.
    """
    marks = {mark(server) for server in servers} | ({own.identity} if own else set())
    return Model(
        name,
        Phase.READY,
        len(servers) + (own.asked if own else 0),
        (*map(static_replica, servers), *(own.replicas if own else ())),
        own.members if own else (),
        own.spec if own else None,
        own.endpoints if own else (),
        tuple(servers),
        _only(marks) or "",
    )


def _adapter(name: str, model: Model) -> Model:
    """Return a LoRA adapter as a model of its own, at the replicas of its base."""
    identity = f"{model.identity}/{name}" if model.identity else ""
    return replace(model, name=name, identity=identity, base=model.name)


def static_replica(backend: Backend) -> Replica:
    """Return a static server as the balancer's replica."""
    return Replica(
        key=f"{backend.name} {backend.url}",
        name=backend.name,
        url=backend.url.rstrip("/").removesuffix("/v1"),
        token=os.environ.get(backend.api_key_env) if backend.api_key_env else None,
    )


def _by_name(backends: Sequence[Backend]) -> dict[str, list[Backend]]:
    found: dict[str, list[Backend]] = {}
    for backend in backends:
        found.setdefault(backend.name, []).append(backend)
    return found


class Scanner:
    """The reader of the state directory; remembers the last readable state.

    Args:
        root: the state directory.
        backends: static servers.
        look: returns the scheduler's states of jobs, by id, without waiting.
    """

    def __init__(self, root: Path, backends: Sequence[Backend] = (), look: Look = nobody) -> None:
        self._root = root
        self._static = _by_name(backends)
        self._look = look
        self._known: dict[str, ServiceSpec] = {}
        self._endpoints: dict[tuple[str, int], Endpoint] = {}
        self._secrets: dict[str, str] = {}

    def serve(self, backends: Sequence[Backend]) -> None:
        """Replace the static servers, from the next scan on."""
        self._static = _by_name(backends)

    def scan(self, now: float, refused: Collection[str] = ()) -> Catalog:
        """Return the present catalog.

        Args:
            now: Unix time.
            refused: keys of replicas that refused their secret; the secret is read again.

        Raises:
            OSError: the state directory cannot be read; the last catalog still holds.
        """
        # Raises if the file system is away: a listing that fails must not look like an empty one.
        self._root.stat()
        for key in refused:
            self._secrets.pop(key, None)
        self._find_services()
        endpoints = {
            (name, number): self._endpoint(name, number)
            for name, spec in self._known.items()
            for number in range(spec.replicas)
        }
        members = self._members(endpoints, now)
        models = {
            name: self._model(spec, members[name], endpoints) for name, spec in self._known.items()
        }
        for name, spec in self._known.items():
            for adapter in spec.adapters:
                models.setdefault(adapter, _adapter(adapter, models[name]))
        for name, servers in self._static.items():
            own = models.get(name)
            models[name] = joined(name, servers, own if own and own.base is None else None)
        self._prune(models)
        return Catalog(dict(sorted(models.items())))

    def _find_services(self) -> None:
        """Load all services, also services missing in the listing, as NFS caches listings."""
        for name in {*directory.services(self._root), *self._known}:
            spec = directory.load_spec(self._root, name)
            if spec is not None:
                self._known[name] = spec
            elif not directory.service_dir(self._root, name).exists():
                self._known.pop(name, None)

    def _members(self, endpoints: Endpoints, now: float) -> dict[str, tuple[ReplicaStatus, ...]]:
        """Return the status of replicas, with the scheduler's word for silent replicas."""
        jobs = {
            place: directory.load_job(self._root, *place)
            for place, endpoint in endpoints.items()
            if not speaks(endpoint, now)
        }
        answers = self._look([job for job in jobs.values() if job is not None])
        found: dict[str, list[ReplicaStatus]] = {name: [] for name in self._known}
        for (name, number), endpoint in endpoints.items():
            job = jobs.get((name, number))
            answer = answers.get(job.key) if job is not None else None
            found[name].append(replica_status(number, endpoint, job, answer, now))
        return {name: tuple(members) for name, members in found.items()}

    def _model(
        self, spec: ServiceSpec, members: tuple[ReplicaStatus, ...], endpoints: Endpoints
    ) -> Model:
        sure: list[Replica] = []
        doubtful: list[Replica] = []
        said = [endpoints[spec.name, one.number] for one in members]
        for one, endpoint in zip(members, said, strict=True):
            if endpoint is not None and one.phase is Phase.READY and endpoint.port:
                (doubtful if one.stale else sure).append(self._replica(endpoint))
        # A wrong clock or a full quota makes a live replica look stale; without any other replica
        # the stale ones get the requests.
        usable = tuple(r for r in sure if r.secret) or tuple(r for r in doubtful if r.secret)
        return Model(
            spec.name,
            best(members),
            spec.replicas,
            usable,
            members,
            spec,
            tuple(one for one in said if one is not None),
            identity=mark(spec),
        )

    def _endpoint(self, name: str, number: int) -> Endpoint | None:
        """Return a replica's report; if unreadable, the previous report, but only once."""
        found = directory.load_endpoint(self._root, name, number)
        if found is None:
            return self._endpoints.pop((name, number), None)
        self._endpoints[name, number] = found
        return found

    def _replica(self, endpoint: Endpoint) -> Replica:
        key = identity(endpoint)
        if key not in self._secrets:
            secret = directory.load_secret(self._root, endpoint.service, endpoint.replica)
            if secret is not None:
                self._secrets[key] = secret
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        return Replica(
            key=key,
            name=f"{endpoint.service}/{endpoint.replica}",
            url=f"{'https' if endpoint.certificate else 'http'}://{host}:{endpoint.port}",
            secret=self._secrets.get(key),
            certificate=endpoint.certificate,
            slots=endpoint.slots,
            others=endpoint.addresses,
        )

    def _prune(self, models: Mapping[str, Model]) -> None:
        """Drop the reports and secrets of removed replicas."""
        live = {replica.key for model in models.values() for replica in model.replicas}
        self._secrets = {key: secret for key, secret in self._secrets.items() if key in live}
        kept = {(name, n) for name, spec in self._known.items() for n in range(spec.replicas)}
        self._endpoints = {k: v for k, v in self._endpoints.items() if k in kept}
