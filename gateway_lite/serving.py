"""Run a gateway: bind, publish where it listens, serve, and take the record away again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway_lite.app import HOT, Gateway
from gateway_lite.reload import Models
from gateway_lite.server import Server, listen
from hpc import __version__, keys, state
from hpc.model import GatewayRecord

if TYPE_CHECKING:
    from gateway_lite.settings import Settings
    from hpc.config import Config

log = logging.getLogger(__name__)

PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        or_any: take a free port where this one is in use.
    """

    host: str
    port: int
    or_any: bool = False


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


async def serve(config: Config, address: Address, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and read models.yaml again on SIGHUP.

    Raises:
        ConfigError: the keys file may not be used.
        GatewayError: the port cannot be bound.
        StateError: the record cannot be written.
    """
    keys.load(state.keys_path(config.home))
    with listen(address.host, address.port, or_any=address.or_any) as sock:
        models = Models(config)
        beat = Beat(config, _record(address.host, sock.getsockname()[1]), models)
        folder = state.gateway_dir(config.home, socket.gethostname())
        gateway = Gateway(
            config.home, models, settings, beat=beat, access_log=folder / "access.log"
        )
        server = Server(gateway.app, gateway.desk, HOT, gateway.look)
        _on_hangup(gateway, server)
        try:
            await gateway.start()
            beat()
            log.info("listening on %s:%d", address.host, sock.getsockname()[1])
            await server.serve(sockets=[sock])
        finally:
            await gateway.close()
            beat.end()


def _on_hangup(gateway: Gateway, server: Server) -> None:
    """Reload on SIGHUP, unless it says that the terminal we run in is closed."""
    attached = os.isatty(0)

    def react() -> None:
        if attached and not os.isatty(0):
            server.end()
        else:
            gateway.watcher.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, react)


def _record(host: str, port: int) -> GatewayRecord:
    now = time.time()
    return GatewayRecord(
        hostname=socket.gethostname(),
        host=host,
        port=port,
        pid=os.getpid(),
        started_at=now,
        beat_at=now,
        version=__version__,
    )
