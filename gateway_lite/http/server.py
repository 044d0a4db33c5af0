"""The HTTP server: uvicorn on several listeners; after SIGTERM, streams may finish."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway_lite.http.connections import ConnectionTable
from gateway_lite.http.listeners import BACKLOG
from gateway_lite.http.protocol import HEAD_S, protocol_for
from hpc.file_limit import raise_file_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import FrameType

    from gateway_lite.http.listeners import Listener
    from gateway_lite.request.context import RequestHandler
    from gateway_lite.wire.asgi import App

log = logging.getLogger(__name__)

TICK_S = 1.0
LAST_WORDS_S = 2.0
"""Seconds for the error frames of streams that were cut at the deadline."""


class Server(uvicorn.Server):
    """Uvicorn with several listeners and a graceful end.

    Args:
        app: the ASGI application for all requests that are not hot.
        handler: the request handler of hot requests.
        hot: the path of each hot request, by method and raw URL.
        look: called about once a second with the seconds since the last call.
        listeners: further sockets to accept connections at.
    """

    def __init__(
        self,
        app: App,
        handler: RequestHandler,
        hot: dict[tuple[bytes, bytes], str],
        look: Callable[[float], None],
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.listeners = listeners
        settings = handler.settings
        config = uvicorn.Config(
            app,
            http=protocol_for(handler, hot, ConnectionTable(raise_file_limit())),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(settings.client_idle_s),
            timeout_graceful_shutdown=int(LAST_WORDS_S),
        )
        super().__init__(config)
        self._in_flight = handler.in_flight
        self._look = look
        self._idle_s = settings.client_idle_s
        self._tick_s = min(TICK_S, settings.idle_s / 4)
        self._drain_s = settings.drain_s
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections at each listener."""
        await super().startup(sockets)
        if not self.listeners:
            return
        for listener in self.listeners:
            unix = listener.sock.family == socket.AF_UNIX
            make = self._loop.create_unix_server if unix else self._loop.create_server
            # Until its handshake is over a connection has no place in the table: so it is short.
            handshake_s = None if listener.context is None else HEAD_S
            self.servers.append(
                await make(
                    self._connection,
                    sock=listener.sock,
                    ssl=listener.context,
                    backlog=BACKLOG,
                    ssl_handshake_timeout=handshake_s,
                )
            )

    def _connection(self) -> asyncio.Protocol:
        config = self.config
        return config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends the server."""
        watch = self._loop.create_task(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Check the timeouts of all connections."""
        before = self._loop.time()
        while True:
            # One timer in all: a timer per connection or request would cost the data path more.
            await asyncio.sleep(self._tick_s)
            now = self._loop.time()
            passed_s, before = now - before, now
            try:
                self._look(passed_s)
                for connection in tuple(self.server_state.connections):
                    connection.look(passed_s, self._idle_s)  # type: ignore[union-attr]
            except Exception:
                log.exception("looking after connections failed")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the graceful end at the first signal, and end at once at the second."""
        del sig, frame
        # A signal handler may interrupt any line of the loop's own code.
        self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Refuse new requests, and stop after the requests in progress; called in the loop."""
        if self._in_flight.draining:
            self._in_flight.expire()
        self._in_flight.draining = True
        if self._ending is None:
            self._ending = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        idle = asyncio.ensure_future(self._in_flight.idle.wait())
        ends: set[asyncio.Future[Any]] = {idle, self._in_flight.expired}
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait(ends, timeout=self._drain_s, return_when=first)
        self._in_flight.expire()
        await asyncio.wait({idle}, timeout=LAST_WORDS_S)
        idle.cancel()
        self.should_exit = True


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, on uvloop if installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every machine
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
