"""The life of a gateway process: start, publication of its record, service, removal."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway_lite.app import HOT, Gateway
from gateway_lite.auth.rate_limits import Limits
from gateway_lite.auth.usage_store import Shared, UsageStore
from gateway_lite.catalog.models_file import ModelsFile
from gateway_lite.http.server import Server
from gateway_lite.routing.shared_slots import SlotTable
from hpc import peer_proof
from hpc.model import GatewayRecord
from hpc.processes import by_pid
from hpc.state import directory
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway_lite.http.listeners import Listener
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.workers import WorkerGroup
    from hpc.config import Config

log = logging.getLogger(__name__)

PATIENCE_S = 2.0


class HeartbeatWriter:
    """The heartbeat of the gateway: publishes the gateway's record repeatedly.

    Args:
        config: configuration with the state directory.
        record: the published record; each publication has a new heartbeat.
        models: the models.yaml in force; changes are published at once.
    """

    def __init__(self, config: Config, record: GatewayRecord, models: ModelsFile) -> None:
        self._root = config.home
        self._record = record
        self._models = models
        self._next = 0.0
        self._ended = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Publish the record if it changed or the last heartbeat is old enough."""
        with self._lock:
            news = replace(self._record, reload=self._models.outcome, models_file=self._file())
            if self._ended or (news == self._record and time.monotonic() < self._next):
                return
            directory.save_gateway(self._root, replace(news, beat_at=time.time()))
            self._record, self._next = news, time.monotonic() + directory.BEAT_S

    def _file(self) -> str | None:
        return None if self._models.path is None else str(self._models.path)

    def end(self) -> None:
        """Remove the record if still our own; give up if the file system hangs."""
        # Set before the lock: a heartbeat that holds the lock is the last, and no later one can
        # bring the removed record back.
        self._ended = True
        if not self._lock.acquire(timeout=PATIENCE_S):
            return
        found = directory.load_gateway(self._root, self._record.hostname)
        if found is not None and found.pid == self._record.pid:
            directory.drop_gateway(self._root, self._record.hostname)
        self._lock.release()


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The context that the supervisor gives to a worker.

    Attributes:
        group: identity of the worker.
        counts: path of the file with the workers' shared counts.
        slots: path of the file with the shared engine slots.
        wakeups: eventfd of each worker, written when a slot may be free for the worker.
        pid: process id of the supervisor, by which other programs know the gateway.
        started_at: Unix time of the supervisor's start.
        proof_secret: the secret of this start, by which every worker proves itself.
        ready: called once the worker serves.
    """

    group: WorkerGroup
    counts: str
    slots: str
    wakeups: tuple[int, ...]
    pid: int
    started_at: float
    proof_secret: str
    ready: Callable[[], None]


async def serve(
    config: Config,
    listeners: Sequence[Listener],
    settings: GatewaySettings,
    place: WorkerContext | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and read models.yaml again on SIGHUP.

    Args:
        config: configuration with the state directory.
        listeners: listeners that accept connections; the first one is published.
        settings: timeouts and bounds.
        place: context of a worker; None for a single process.

    Raises:
        StateError: the record cannot be written, or an earlier gateway's record not be read.
    """
    models = ModelsFile(config)
    proof_secret = peer_proof.new_secret() if place is None else place.proof_secret
    beat = None
    if place is None or not place.group.worker:
        beat = HeartbeatWriter(config, _record(listeners, place, proof_secret), models)
    gateway = Gateway(
        config.home,
        models,
        settings,
        beat=beat,
        access_log=_access_log(config, place),
        limits=_limits(config, place),
        anonymous=config.gateway.anonymous,
        proof_secret=proof_secret.encode(),
        group=None if place is None else place.group,
        slots=None if place is None else SlotTable(place.slots, place.group.worker, place.wakeups),
    )
    server = Server(gateway.app, gateway.handler, HOT, gateway.look, listeners)
    _on_hangup(gateway, server, attached=place is None and os.isatty(0))
    try:
        await gateway.start()
        _freeze()
        if beat is not None:
            beat()
        if place is None:
            told(listeners)
        else:
            place.ready()
        await server.serve(sockets=[])
    finally:
        await gateway.close()
        if beat is not None:
            beat.end()


def _freeze() -> None:
    """Exclude the objects of the start from garbage collection, which halts all streams."""
    gc.collect()
    gc.freeze()


def told(listeners: Sequence[Listener]) -> None:
    """Log the addresses of the listeners."""
    log.info("listening on %s", ", ".join(listener.where() for listener in listeners))


def _limits(config: Config, place: WorkerContext | None) -> Limits:
    """Return the limits of keys; of several workers the first one keeps the record."""
    hostname = socket.gethostname()
    if place is None:
        limits = Limits(root=config.home, hostname=hostname)
        limits.begin()
        return limits
    ledger = UsageStore(Shared(place.counts, place.group.worker))
    ledger.repair()
    return Limits(ledger, root=None if place.group.worker else config.home, hostname=hostname)


def _access_log(config: Config, place: WorkerContext | None) -> Path:
    """Return the path of this process's own access log, which the process also rotates."""
    number = "" if place is None or not place.group.worker else f".{place.group.worker}"
    folder = directory.gateway_dir(config.home, socket.gethostname())
    return folder / f"access{number}.log"


def _on_hangup(gateway: Gateway, server: Server, *, attached: bool) -> None:
    """Reload on SIGHUP, or end if SIGHUP reports that the gateway's terminal was closed."""

    def react() -> None:
        if attached and not os.isatty(0):
            server.end()
        else:
            gateway.watcher.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, react)


def _record(
    listeners: Sequence[Listener], place: WorkerContext | None, proof_secret: str
) -> GatewayRecord:
    host, port = listeners[0].sock.getsockname()[:2]
    now = time.time()
    pid = os.getpid() if place is None else place.pid
    return GatewayRecord(
        hostname=socket.gethostname(),
        host=host,
        port=port,
        pid=pid,
        started_at=now if place is None else place.started_at,
        beat_at=now,
        version=__version__,
        proof_secret=proof_secret,
        socket=next((os.path.abspath(each.path) for each in listeners if each.path), None),  # noqa: PTH100 - as typed
        process=by_pid.identity(pid) or "",
    )
