"""Run a gateway: bind, publish where it listens, serve, and take the record away again."""

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
from gateway_lite.ledger import Ledger, Shared
from gateway_lite.limits import Limits
from gateway_lite.reload import Models
from gateway_lite.server import Server
from gateway_lite.slots import SlotTable
from hpc import __version__, state
from hpc.model import GatewayRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway_lite.gather import Crew
    from gateway_lite.listeners import Listener
    from gateway_lite.settings import Settings
    from hpc.config import Config

log = logging.getLogger(__name__)

PATIENCE_S = 2.0


class Beat:
    """Publishes the record of this gateway again and again.

    Args:
        config: names the state directory.
        record: what is published, with a new heartbeat each time.
        models: the models.yaml in force; news of it are published at once.
    """

    def __init__(self, config: Config, record: GatewayRecord, models: Models) -> None:
        self._root = config.home
        self._record = record
        self._models = models
        self._next = 0.0
        self._ended = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Publish, where the last time is long enough ago."""
        with self._lock:
            news = replace(self._record, reload=self._models.outcome, models_file=self._file())
            if self._ended or (news == self._record and time.monotonic() < self._next):
                return
            state.save_gateway(self._root, replace(news, beat_at=time.time()))
            self._record, self._next = news, time.monotonic() + state.BEAT_S

    def _file(self) -> str | None:
        return None if self._models.path is None else str(self._models.path)

    def end(self) -> None:
        """Remove the record, if it still is ours; give up where the file system hangs."""
        self._ended = True
        if not self._lock.acquire(timeout=PATIENCE_S):
            return
        found = state.load_gateway(self._root, self._record.hostname)
        if found is not None and found.pid == self._record.pid:
            state.drop_gateway(self._root, self._record.hostname)
        self._lock.release()


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is given by the process that supervises it.

    Attributes:
        crew: its number.
        counts: file with the counts that the workers share.
        slots: file with the slots of engines that they share.
        bells: what wakes each of them when there is a slot for it.
        pid: of the supervising process, by which others know the gateway.
        started_at: Unix time at which that began.
        ready: called once it serves.
    """

    crew: Crew
    counts: str
    slots: str
    bells: tuple[int, ...]
    pid: int
    started_at: float
    ready: Callable[[], None]


async def serve(
    config: Config, listeners: Sequence[Listener], settings: Settings, place: Place | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, and read models.yaml again on SIGHUP.

    Args:
        config: names the state directory.
        listeners: where to accept connections; the first one is published.
        settings: how long to wait.
        place: which of several workers we are; None is the only one.

    Raises:
        StateError: the record cannot be written, or that of an earlier gateway not be read.
    """
    models = Models(config)
    beat = None
    if place is None or not place.crew.worker:
        beat = Beat(config, _record(listeners[0], place), models)
    gateway = Gateway(
        config.home,
        models,
        settings,
        beat=beat,
        access_log=_access_log(config, place),
        limits=_limits(config, place),
        anonymous=config.gateway.anonymous,
        crew=None if place is None else place.crew,
        slots=None if place is None else SlotTable(place.slots, place.crew.worker, place.bells),
    )
    server = Server(gateway.app, gateway.desk, HOT, gateway.look, listeners)
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
    """Leave what lives as long as we do out of collections, for which all streams stand still."""
    gc.collect()
    gc.freeze()


def told(listeners: Sequence[Listener]) -> None:
    """Log where we listen."""
    log.info("listening on %s", ", ".join(listener.where() for listener in listeners))


def _limits(config: Config, place: Place | None) -> Limits:
    """Return what keys may use; with several workers the first one keeps the record."""
    hostname = socket.gethostname()
    if place is None:
        limits = Limits(root=config.home, hostname=hostname)
        limits.begin()
        return limits
    ledger = Ledger(Shared(place.counts, place.crew.worker))
    ledger.repair()
    return Limits(ledger, root=None if place.crew.worker else config.home, hostname=hostname)


def _access_log(config: Config, place: Place | None) -> Path:
    """Return the log of this process alone, as it also rotates it."""
    number = "" if place is None or not place.crew.worker else f".{place.crew.worker}"
    folder = state.gateway_dir(config.home, socket.gethostname())
    return folder / f"access{number}.log"


def _on_hangup(gateway: Gateway, server: Server, *, attached: bool) -> None:
    """Reload on SIGHUP, unless it says that the terminal we run in is closed."""

    def react() -> None:
        if attached and not os.isatty(0):
            server.end()
        else:
            gateway.watcher.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, react)


def _record(listener: Listener, place: Place | None) -> GatewayRecord:
    host, port = listener.sock.getsockname()[:2]
    now = time.time()
    return GatewayRecord(
        hostname=socket.gethostname(),
        host=host,
        port=port,
        pid=os.getpid() if place is None else place.pid,
        started_at=now if place is None else place.started_at,
        beat_at=now,
        version=__version__,
    )
