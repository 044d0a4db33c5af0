"""Run a gateway: bind, publish where it listens, serve, and take the record away again."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway_lite.app import Gateway
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
    """

    def __init__(self, config: Config, record: GatewayRecord) -> None:
        self._root = config.home
        self._record = record
        self._next = 0.0
        self._ended = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Publish, where the last time is long enough ago."""
        with self._lock:
            if self._ended or time.monotonic() < self._next:
                return
            self._next = time.monotonic() + state.BEAT_S
            state.save_gateway(self._root, replace(self._record, beat_at=time.time()))

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
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: the keys file may not be used.
        GatewayError: the port cannot be bound.
        StateError: the record cannot be written.
    """
    keys.load(state.keys_path(config.home))
    with listen(address.host, address.port, or_any=address.or_any) as sock:
        beat = Beat(config, _record(config, address.host, sock.getsockname()[1]))
        folder = state.gateway_dir(config.home, socket.gethostname())
        gateway = Gateway(
            config.home,
            config.backends,
            settings,
            beat=beat,
            access_log=folder / "access.log",
        )
        server = Server(gateway.app, gateway.gate, settings)
        try:
            await gateway.start()
            beat()
            log.info("listening on %s:%d", address.host, sock.getsockname()[1])
            await server.serve(sockets=[sock])
        finally:
            await gateway.close()
            beat.end()


def _record(config: Config, host: str, port: int) -> GatewayRecord:
    now = time.time()
    return GatewayRecord(
        hostname=socket.gethostname(),
        host=host,
        port=port,
        pid=os.getpid(),
        started_at=now,
        beat_at=now,
        version=__version__,
        models_file=None if config.models_file is None else str(config.models_file),
    )
