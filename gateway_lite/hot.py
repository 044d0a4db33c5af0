"""Uvicorn's HTTP protocol, of which requests to engines leave before they become ASGI.

Uvicorn keeps the socket, the parser, the pipeline and all other paths. What is used of its
protocol beside public API is pinned by a contract test.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway_lite import errors, reply, wirehead
from gateway_lite.exchange import Exchange, exchange_of
from gateway_lite.request import Request

if TYPE_CHECKING:
    from gateway_lite.desk import Desk

log = logging.getLogger(__name__)


class Hot(HttpToolsProtocol):
    """One client connection.

    Attributes:
        desk: decides on hot requests; set on a subclass for each server.
        hot: which requests are hot: path by method and raw URL.
    """

    __slots__ = (
        *("_between", "_current", "_deaf", "_exchange", "_fed", "_head_s", "_in_head"),
        *("_lingering", "_named", "_quiet_s", "on_header", "url"),
    )
    desk: Desk
    hot: dict[tuple[bytes, bytes], str]
    cycle: Any
    pipeline: Any
    cache: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._named: dict[bytes, bytes] = {}
        self._exchange: Exchange | None = None
        self._current: Any = None
        self._fed = 0
        self._quiet_s = self._head_s = 0.0
        self._in_head = self._lingering = self._deaf = False
        self._between = True
        # What the parser calls most is not worth a call of Python; the first of two headers counts.
        self.on_header = self._named.setdefault  # type: ignore[assignment]
        super().__init__(*args, **kwargs)

    # What uvicorn's protocol calls, and what it would do.

    def on_message_begin(self) -> None:
        """Begin a request; the scope is made only for those that need one."""
        self.url = b""
        self._between = False
        self._named.clear()
        self._in_head = True
        self._head_s = 0.0
        self._exchange = None

    def on_headers_complete(self) -> None:
        """Take the request, or leave it to ASGI."""
        self._in_head = False
        self._fed = 0
        parser, desk = self.parser, self.desk
        method = parser.get_method()
        path = self.hot.get((method, self.url))
        if path is None:
            path = self.hot.get((method, wirehead.path_of(self.url)))
        if len(self._named) > wirehead.HEADERS:
            raise wirehead.TooManyHeadersError
        if path is None:
            self._leave_to_asgi()
            return
        headers = {name.lower(): value for name, value in self._named.items()}
        plain = parser.get_http_version() == "1.0"
        request = Request(method, path, headers, desk.settings.body_bytes)
        keep_alive = not plain and parser.should_keep_alive()
        exchange = exchange_of(self, desk, request, keep_alive=keep_alive, plain=plain)
        before, self.cycle, self._exchange = self.cycle, exchange, exchange
        if before is None or before.response_complete:
            self._current = exchange
            exchange.open()
        else:
            self.pipeline.appendleft((exchange, self.app))
            if len(self.pipeline) >= wirehead.AHEAD:
                self.flow.pause_reading()

    def _leave_to_asgi(self) -> None:
        url = self.url
        super().on_message_begin()
        self.url = url
        for name, value in self._named.items():
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the request's body."""
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        elif not exchange.response_complete:
            fits = exchange.request.add(body)
            if not exchange.opened:
                if exchange.request.size > wirehead.AHEAD_BYTES:
                    self.flow.pause_reading()
            elif not fits:
                exchange.fail(errors.too_large(self.desk.settings.body_bytes))

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._fed = 0
        self._between = True
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        exchange.request.complete()
        if exchange.opened and not exchange.response_complete:
            exchange.admit()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start the next request in the pipeline."""
        self._current = cycle
        if isinstance(cycle, Exchange):
            cycle.open()
        else:
            super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse what came, within bounds."""
        if self._lingering or self._deaf:
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._quiet_s = 0.0
        self._fed += len(data)
        if self._between and data.find(b"pgrade:", 0, wirehead.UPGRADE_BYTES) >= 0:
            data = wirehead.without_upgrade(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stay()
        except httptools.HttpParserError as error:
            many = isinstance(error.__context__, wirehead.TooManyHeadersError)
            plain = errors.bad_request("this is not valid HTTP")
            self.refuse(errors.head_too_large() if many else plain)
        else:
            if self._in_head and (
                self._fed > wirehead.HEAD_BYTES or len(self._named) > wirehead.HEADERS
            ):
                self.refuse(errors.head_too_large())

    def refuse(self, error: errors.ApiError) -> None:
        """Answer what cannot be read as a request, behind what is under way, and close."""
        if self.transport.is_closing() or self._lingering:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._last_words(error)
            return
        self.write(reply.last(error.status, self.defaults(), error.body()))
        self.linger()

    def _last_words(self, error: errors.ApiError) -> None:
        """Answer what is under way, hear nothing more, and close."""
        self._deaf = True
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False
        if isinstance(last, Exchange) and last.opened and not last.request.whole:
            last.fail(error)

    def _stay(self) -> None:
        """Go on as if no other protocol had been asked for, which the parser cannot."""
        if self.parser.get_method() == b"CONNECT":
            self.refuse(errors.bad_request("this server is no proxy"))
        elif self.cycle is not None and not self.cycle.response_complete:
            self._last_words(errors.bad_request("this server speaks HTTP/1.1 only"))
        else:
            self._close()

    def _close(self) -> None:
        self.desk.outbox.flush()
        self.transport.close()

    def shutdown(self) -> None:
        """Send what waits, and end as soon as nothing is under way."""
        self.desk.outbox.flush()
        super().shutdown()

    def linger(self) -> None:
        """Close, but let a client that still sends read the answer first."""
        self._lingering = True
        self.desk.outbox.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(wirehead.LINGER_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the client waits for no more."""
        current, self._current = self._current, None
        self.pipeline.clear()
        super().connection_lost(exc)
        if isinstance(current, Exchange):
            current.left()
        elif current is not None:
            current.disconnected = True
            current.message_event.set()

    def pause_writing(self) -> None:
        """Pass the client's slowness on to the replica."""
        super().pause_writing()
        if isinstance(self._current, Exchange):
            self._current.pause()

    def resume_writing(self) -> None:
        """Let the replica go on."""
        super().resume_writing()
        if isinstance(self._current, Exchange):
            self._current.resume()

    # What an exchange and the server's watch call.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.desk.outbox.put(self.transport, data)

    def defaults(self) -> bytes:
        """Return the header lines of every answer: the date, which uvicorn renews."""
        known, cache = self.server_state.default_headers, self.cache
        if cache[0] is not known:
            cache[:] = known, reply.lines(known)
        found: bytes = cache[1]
        return found

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request, or close."""
        self._current = None
        self._quiet_s = 0.0
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingering:
            return
        if not exchange.keep_alive:
            self._close() if exchange.request.whole else self.linger()
        elif self.pipeline:
            self.loop.call_soon(self._next)
        else:
            self.flow.resume_reading()

    def _next(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())

    def look(self, passed_s: float, idle_s: float) -> None:
        """Close what is idle for too long or sends too slowly.

        Args:
            passed_s: seconds since the last look.
            idle_s: seconds that a connection without a request is kept.
        """
        self._quiet_s += passed_s
        if self._lingering or self.transport.is_closing():
            return
        if self._in_head:
            self._head_s += passed_s
            if self._head_s >= wirehead.HEAD_S:
                self.refuse(errors.too_slow())
        elif self.cycle is not None and _incomplete(self.cycle):
            if self._quiet_s >= wirehead.BODY_QUIET_S:
                self._give_up()
        elif self._current is None and self._quiet_s >= idle_s:
            self.transport.close()

    def _give_up(self) -> None:
        """Refuse a request whose body does not come."""
        if not isinstance(self._current, Exchange):
            self.refuse(errors.too_slow())
            return
        self._current.keep_alive = False
        self._current.fail(errors.too_slow())


def _incomplete(cycle: Any) -> bool:
    """Tell whether a request still comes."""
    return not cycle.request.whole if isinstance(cycle, Exchange) else bool(cycle.more_body)


def protocol(desk: Desk, hot: dict[tuple[bytes, bytes], str]) -> type[Hot]:
    """Return the protocol of one server.

    Args:
        desk: decides on hot requests.
        hot: the path of each hot request, by method and raw URL.
    """
    return type("HotProtocol", (Hot,), {"desk": desk, "hot": hot, "cache": [None, b""]})
