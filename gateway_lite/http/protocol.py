"""Uvicorn's HTTP protocol, with a short path for inference requests that bypasses ASGI.

Uvicorn keeps the socket, the parser, the pipeline and all other paths. A contract test pins the
parts of uvicorn's protocol that this module uses beside its public API.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway_lite import errors
from gateway_lite.http.request_line import UPGRADE_BYTES, path_of, without_upgrade
from gateway_lite.request.context import Request
from gateway_lite.request.exchange import Exchange, exchange_of
from gateway_lite.wire import error_forms, response_head

if TYPE_CHECKING:
    from gateway_lite.http.connections import ConnectionTable
    from gateway_lite.request.context import RequestContext, RequestHandler
    from gateway_lite.upstream.handshake import ReplicaHandshake

HEAD_BYTES = 64 * 1024
HEADERS = 128
AHEAD = 16
"""Pipelined requests that may wait behind the current request; beyond, reading stops."""
AHEAD_BYTES = 64 * 1024
"""Bytes of body for each waiting request."""
MOST_AHEAD = 32
"""Requests that may begin in one read of up to 256 KiB, beyond which the connection is closed: a
read could hold 8,000, which would take the event loop 0.3 s.
"""
FREE_READS = 256
LEAST_READ = 32
"""Least bytes per read of one request, on average, after FREE_READS reads: each costs 10 us."""
DROPPED_BYTES = 256 * 1024
DROPPED_S = 0.05
"""Bytes that a refused client may send in DROPPED_S, and which are dropped: 10 MiB in LINGER_S."""
HEAD_S = 10.0
"""Seconds from the first byte of a request to the end of its head."""
BODY_QUIET_S = 30.0
"""Longest seconds between two bytes of a request's body."""
BESIDE_BYTES = 64 * 1024
"""Bytes without a byte of the body in a row: trailers, which the parser keeps in memory to their
end, and extensions of chunks.
"""
BODY_RATE = 4096
"""Least bytes per second of a body, once it has taken BODY_QUIET_S."""
SEND_S = 60.0
"""Seconds in which a client must take all that waits for it: 64 KiB and more at a slow client."""
BUFFER_BYTES = 1024 * 1024
"""Bytes of an answer that may wait for a slow client before the engine is slowed down: most whole
answers, so that the engine's slot is free again before the client has read them.
"""
LINGER_S = 2.0
"""Seconds for a sending client to read a refusal before the connection is closed."""


SINGLE = frozenset(
    {
        *(b"api-key", b"authorization", b"content-encoding", b"content-length", b"content-type"),
        *(b"expect", b"host"),
        *(b"origin", b"proxy-authorization", b"transfer-encoding", b"traceparent", b"x-api-key"),
        *(b"x-request-id", b"x-session-id"),
    }
)
"""Headers that may occur once: two readers could otherwise take a different one of two."""


class TooManyHeadersError(Exception):
    """A request has more than HEADERS headers; ends its parsing."""


class RepeatedHeaderError(Exception):
    """A request has a header of SINGLE twice; ends its parsing."""


class TooManyAheadError(Exception):
    """More than MOST_AHEAD requests begin in one read; ends its parsing."""


def headers_of(lines: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return headers by lower-case name; of two harmless ones the first counts.

    Raises:
        RepeatedHeaderError: a header of SINGLE occurs twice.
    """
    headers = {name.lower(): value for name, value in lines}
    if len(headers) == len(lines):
        return headers
    names = [name.lower() for name, _ in lines]
    for name in SINGLE:
        if names.count(name) > 1:
            raise RepeatedHeaderError(name.decode())
    return dict(zip(reversed(names), reversed([value for _, value in lines]), strict=True))


log = logging.getLogger(__name__)


class InferenceProtocol(HttpToolsProtocol):
    """The HTTP protocol of one client connection.

    Attributes:
        handler: the request handler of hot requests; set on a subclass for each server.
        hot: the hot requests: path by method and raw URL.
        handshake: the sidecar's part of the proof on this connection, or None.
    """

    __slots__ = (
        *(
            "_begun",
            "_beside",
            "_between",
            "_body_s",
            "_current",
            "_deaf",
            "_due_s",
            "_exchange",
            "_fed",
        ),
        *("_head_s", "_in_head", "_key", "_lines", "_lingering", "_payer", "_quiet_s", "_reads"),
        *("_room", "_slow", "_written", "handshake", "listed", "url"),
    )
    handler: RequestHandler
    table: ConnectionTable
    hot: dict[tuple[bytes, bytes], str]
    cycle: Any
    pipeline: Any
    cache: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lines: list[tuple[bytes, bytes]] = []
        self._exchange: Exchange | None = None
        self._current: Any = None
        self.handshake: ReplicaHandshake | None = None
        self._fed = 0
        self._quiet_s = self._head_s = self._body_s = self._due_s = 0.0
        self._key = self._payer = self.listed = ""
        self.url = b""
        self._slow = self._room = False
        self._written = self._reads = self._begun = self._beside = 0
        self._in_head = self._lingering = self._deaf = False
        self._between = True
        super().__init__(*args, **kwargs)

    # Callbacks of uvicorn's protocol and of its parser.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._begun += 1
        if self._begun > MOST_AHEAD:
            raise TooManyAheadError
        # No scope is built here: only requests that go to ASGI need one, see ``_leave_to_asgi``.
        self.url = b""
        self._between = False
        self._lines = []
        self._in_head = True
        self._head_s = 0.0
        self._exchange = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header until the head is complete; headers behind the body count for nothing."""
        if self._in_head:
            self._lines.append((name, value))

    def on_headers_complete(self) -> None:
        """Start an exchange for a hot request, and leave any other request to ASGI."""
        self._in_head = False
        self._fed = self._beside = 0
        self._body_s = 0.0
        if self._lingering or self.transport.is_closing():
            return  # pipelined behind a request whose answer closes the connection
        parser, handler = self.parser, self.handler
        method = parser.get_method()
        path = self.hot.get((method, self.url))
        if path is None:
            # The exact raw URL needs no parsing; a hot URL may also be absolute or have a query.
            path = self.hot.get((method, path_of(self.url)))
        if len(self._lines) > HEADERS:
            raise TooManyHeadersError
        headers = headers_of(self._lines)
        if path is None:
            self._leave_to_asgi(headers)
            return
        plain = parser.get_http_version() == "1.0"
        request = Request(method, path, headers, handler.settings.body_bytes)
        keep_alive = not plain and parser.should_keep_alive()
        exchange = exchange_of(self, handler, request, keep_alive=keep_alive, plain=plain)
        before, self.cycle, self._exchange = self.cycle, exchange, exchange
        # HTTP/1.1 pipelining: answers leave in the order of requests, so a request behind an
        # unfinished one waits, and reading stops at AHEAD waiting requests.
        if before is None or before.response_complete:
            self._current = exchange
            exchange.open()
        else:
            self.pipeline.appendleft((exchange, self.app))
            if len(self.pipeline) >= AHEAD:
                self.flow.pause_reading()

    def _leave_to_asgi(self, headers: dict[bytes, bytes]) -> None:
        url = self.url
        super().on_message_begin()
        self.url = url
        self.scope["state"]["connection"] = self
        for name, value in headers.items():
            super().on_header(name, value)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Add a piece to the request's body."""
        self._beside = 0
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        elif not exchange.response_complete:
            exchange.receive(body)
            # A waiting request buffers little: a client could otherwise fill memory behind one
            # stream.
            if not exchange.opened and exchange.request.size > AHEAD_BYTES:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Complete the request, and admit an open exchange."""
        self._fed = self._reads = 0
        self._between = True
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
        exchange.request.complete()
        if exchange.opened and not exchange.response_complete:
            exchange.admit()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Start the next request of the pipeline."""
        self._current = cycle
        if isinstance(cycle, Exchange):
            cycle.open()
        else:
            super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes within the bounds of this module."""
        if self._lingering or self._deaf:
            self._drop(len(data))
            return
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._quiet_s = 0.0
        self._fed += len(data)
        self._beside += len(data)
        self._reads += 1
        self._begun = 0
        # A cheap search before the parser: with ``Upgrade`` the parser would not read the body.
        # Both spellings of the first letter match.
        if self._between and data.find(b"pgrade:", 0, UPGRADE_BYTES) >= 0:
            data = without_upgrade(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._stay()
        except httptools.HttpParserError as error:
            self.refuse(_unreadable(error.__context__))
        else:
            self._check_pace()

    def _check_pace(self) -> None:
        """Refuse a head that is too large, and a request that comes in too small pieces."""
        if self._in_head:
            too_large = self._fed > HEAD_BYTES or len(self._lines) > HEADERS
        else:
            too_large = self._beside > BESIDE_BYTES and not self._between
        if too_large:
            self.refuse(errors.head_too_large())
        elif self._reads > FREE_READS and self._fed < self._reads * LEAST_READ:
            self._give_up()

    def _drop(self, size: int) -> None:
        """Drop bytes of a refused client, and slow down a client that sends at full speed."""
        self._fed += size
        if self._fed > DROPPED_BYTES and not self.transport.is_closing():
            self._fed = 0
            self.transport.pause_reading()
            self.loop.call_later(DROPPED_S, self._drop_more)

    def _drop_more(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def refuse(self, error: errors.ApiError) -> None:
        """Answer an unreadable request after the requests in progress, and close the connection."""
        if self.transport.is_closing() or self._lingering:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._last_words(error)
            return
        body = error_forms.body(error, path_of(self.url).decode("latin-1"))
        self.write(response_head.last(error.status, self.defaults(), body))
        self.linger()

    def _last_words(self, error: errors.ApiError) -> None:
        """Answer the requests in progress, ignore further bytes, and close."""
        self._deaf = True
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        last.keep_alive = False
        if isinstance(last, Exchange):
            if last.opened and not last.request.whole:
                last.fail(error)
        elif last is self._current and last.more_body:
            self._end_asgi(last, error)

    def _end_asgi(self, cycle: Any, error: errors.ApiError) -> None:
        """Answer in the place of a page that waits for the rest of its body, which is ignored."""
        begun = cycle.response_started
        cycle.disconnected = True
        cycle.message_event.set()
        if not begun:
            self.write(response_head.last(error.status, self.defaults(), error.body()))
        self.linger()

    def _stay(self) -> None:
        """Handle an offer of another protocol, after which the parser reads no further request."""
        if self.parser.get_method() == b"CONNECT":
            self.refuse(errors.bad_request("this server is no proxy"))
        elif self.cycle is not None and not self.cycle.response_complete:
            self._last_words(errors.bad_request("this server speaks HTTP/1.1 only"))
        else:
            self._close()

    def _close(self) -> None:
        self.handler.batcher.flush()
        self.transport.close()

    def shutdown(self) -> None:
        """Send buffered bytes, and close as soon as no request is in progress."""
        self.handler.batcher.flush()
        super().shutdown()

    def linger(self) -> None:
        """Close for writing now and for reading LINGER_S later, for a client that still sends."""
        self._lingering = True
        self.handler.batcher.flush()
        # A full close with unread bytes in the socket resets the connection, and a reset can
        # discard the answer before the client reads it.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange or the ASGI request of a client that left."""
        self.table.remove(self)
        self._leave_budget()
        current, self._current = self._current, None
        for waiting, _ in self.pipeline:
            if isinstance(waiting, Exchange):
                waiting.drop()
        self.pipeline.clear()
        super().connection_lost(exc)
        if isinstance(current, Exchange):
            current.left()
        elif current is not None:
            current.disconnected = True
            current.message_event.set()

    def pause_writing(self) -> None:
        """Begin to watch a client that reads slowly, and stop its replica if memory is short."""
        super().pause_writing()
        self._slow = True
        self._written, self._due_s = 0, 0.0
        self._payer = self.shown_key()
        self._room = self.handler.bodies.take(self._payer, self, BUFFER_BYTES)
        if not self._room:
            self._pause_replica()

    def _pause_replica(self) -> None:
        if isinstance(self._current, Exchange):
            self._current.pause()

    def evict(self) -> None:
        """Stop the replica of a slow client, as its memory is needed for another key's."""
        self._room = False
        self._pause_replica()

    def _leave_budget(self) -> None:
        if self._room:
            self._room = False
            self.handler.bodies.release(self._payer, self)

    def resume_writing(self) -> None:
        """Read from the replica again."""
        super().resume_writing()
        self._slow = False
        self._leave_budget()
        if isinstance(self._current, Exchange):
            self._current.resume()

    # Methods for the exchange and for the server's watch.

    def write(self, data: bytes) -> None:
        """Send bytes to the client through the write batcher."""
        self.handler.batcher.put(self.transport, data)
        if self._slow:
            self._written += len(data)
            if self.transport.get_write_buffer_size() > BUFFER_BYTES:
                self._pause_replica()

    def defaults(self) -> bytes:
        """Return the header lines of every answer, such as the date."""
        known, cache = self.server_state.default_headers, self.cache
        # Uvicorn makes a new list each second; comparing identities is enough to notice a new date.
        if cache[0] is not known:
            cache[:] = known, response_head.lines(known)
        found: bytes = cache[1]
        return found

    def answered(self, context: RequestContext) -> None:
        """Go on with the next request of the connection, or close the connection."""
        self._current = None
        self._quiet_s = 0.0
        if context.principal is not None:
            self._key = context.principal.id
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingering:
            return
        if not context.keep_alive:
            self._close() if context.request.whole else self.linger()
        elif self.pipeline:
            # Through the loop: pipelined requests that are answered at once must not nest calls.
            self.loop.call_soon(self._next)
        else:
            self.flow.resume_reading()

    def _next(self) -> None:
        if self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())

    def look(self, passed_s: float, idle_s: float) -> None:
        """Close a connection that is idle for too long or sends too slowly.

        Args:
            passed_s: seconds since the last call.
            idle_s: seconds that a connection without a request is kept.
        """
        self._quiet_s += passed_s
        closing = self._lingering or self.transport.is_closing()
        # A closed connection ends with its last byte, which a client may never read.
        if self._reads_too_slowly(passed_s) or (closing and self._quiet_s >= SEND_S):
            self.cut()
        elif not closing:
            self._look_at_request(passed_s, idle_s)

    def _look_at_request(self, passed_s: float, idle_s: float) -> None:
        if self._in_head:
            self._head_s += passed_s
            if self._head_s >= HEAD_S:
                self.refuse(errors.too_slow())
        elif self.cycle is not None and _incomplete(self.cycle):
            if self._sends_too_slowly(passed_s):
                self._give_up()
        elif self._current is None and self._quiet_s >= idle_s:
            self.transport.close()

    def _sends_too_slowly(self, passed_s: float) -> bool:
        """Return whether a body is silent, or slower than BODY_RATE."""
        if self.flow.read_paused:  # the pause is ours
            self._quiet_s = 0.0
            return False
        self._body_s += passed_s
        late = self._fed < (self._body_s - BODY_QUIET_S) * BODY_RATE
        return late or self._quiet_s >= BODY_QUIET_S

    def _reads_too_slowly(self, passed_s: float) -> bool:
        """Return whether what waited SEND_S ago still waits in part."""
        if not self._slow:
            return False
        self._due_s += passed_s
        # First in, first out: what waited at the mark is gone once no more waits than was written
        # since.
        if self.transport.get_write_buffer_size() <= self._written:
            self._written, self._due_s = 0, 0.0
        return self._due_s >= SEND_S

    # Methods for the table of connections.

    def connection_made(self, transport: Any) -> None:
        """Take a place among the connections."""
        super().connection_made(transport)
        self.table.add(self)

    def shown_key(self) -> str:
        """Return the id of the valid key that the connection has shown; empty without any."""
        if self._key:
            return self._key
        current = self._current
        if isinstance(current, Exchange):
            principal = current.principal
        else:
            principal = (self.scope or {}).get("principal")
        return getattr(principal, "id", "")

    def idle(self) -> bool:
        """Return whether no request is in progress."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def cut(self) -> None:
        """Close at once, whatever waits for the client."""
        self.transport.abort()

    def _give_up(self) -> None:
        """Refuse a request that arrives too slowly."""
        if not isinstance(self._current, Exchange):
            self.refuse(errors.too_slow())
            return
        self._current.keep_alive = False
        self._current.fail(errors.too_slow())


def _unreadable(cause: BaseException | None) -> errors.ApiError:
    """Return the error for a request whose parsing ended.

    Args:
        cause: the protocol's own reason, or None.
    """
    if isinstance(cause, TooManyHeadersError):
        return errors.head_too_large()
    if isinstance(cause, RepeatedHeaderError):
        return errors.bad_request(f"the header '{cause}' occurs more than once")
    if isinstance(cause, TooManyAheadError):
        return errors.bad_request("too many requests wait on this connection")
    return errors.bad_request("this is not valid HTTP")


def _incomplete(cycle: Any) -> bool:
    """Return whether a part of the request is still missing."""
    return not cycle.request.whole if isinstance(cycle, Exchange) else bool(cycle.more_body)


def protocol_for(
    handler: RequestHandler, hot: dict[tuple[bytes, bytes], str], table: ConnectionTable
) -> type[InferenceProtocol]:
    """Return the protocol class of one server.

    Args:
        handler: the request handler of hot requests.
        hot: the path of each hot request, by method and raw URL.
        table: the open connections.
    """
    members = {"handler": handler, "hot": hot, "table": table, "cache": [None, b""]}
    return type("HotProtocol", (InferenceProtocol,), members)
