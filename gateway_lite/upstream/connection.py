"""An upstream connection to a replica, with HTTP parser.

Bytes are passed on in the same callback in which they arrived: no task, no queue.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import httptools

if TYPE_CHECKING:
    from gateway_lite.wire.write_batching import WriteBatcher

BIG = 256 * 1024
"""Body size in bytes from which head and body are sent separately, to save the copy."""
NO_BODY = frozenset({204, 304})
INTERIM = 200


class Fault(Enum):
    """The kinds of upstream failure; the kind decides about a retry."""

    UNREACHABLE = "cannot be reached"
    UNPROVED = "does not prove that it is the replica"
    UNTRUSTED = "shows a certificate that is not trusted here"
    STALE = "closed a kept connection"
    BROKEN = "broke off"
    SILENT = "stays silent"
    STUCK = "does not move"
    TOO_LARGE = "answers with too much"


class ResponseSink(Protocol):
    """The receiver of one answer.

    The last call is exactly one of ``on_complete``, ``on_end`` and ``on_error``, unless the
    receiver aborts the connection.
    """

    def on_complete(self, link: UpstreamConnection, body: bytes) -> None:
        """Take a complete answer that arrived at once; the connection is free again."""

    def on_head(self, link: UpstreamConnection) -> None:
        """Take the head of the answer."""

    def on_body(self, data: bytes) -> None:
        """Take bytes of the body."""

    def on_end(self) -> None:
        """Take the end of the answer."""

    def on_error(self, fault: Fault, detail: str) -> None:
        """Take the failure of the answer; no further bytes come."""


class ConnectionOwner(Protocol):
    """The connection pool to which a connection belongs."""

    busy: set[UpstreamConnection]
    batcher: WriteBatcher

    def keep(self, link: UpstreamConnection) -> None:
        """Keep an idle connection for a later request."""

    def forget(self, link: UpstreamConnection) -> None:
        """Forget a closed connection."""


class UpstreamConnection(asyncio.Protocol):
    """One upstream connection.

    Attributes:
        transport: asyncio's transport of the socket.
        status: status code of the current answer.
        headers: headers of the current answer, with lower-case names.
        reads: number of reads for the current answer; the watch notices progress by this number.
        seen: value of ``reads`` at the watch's last call.
        quiet_s: seconds without bytes, as counted by the watch.
    """

    __slots__ = (
        *("_expects_end", "_head", "_named", "_parser", "_parts", "_pool", "_sink"),
        *("complete", "headers", "idle_at", "kept", "on_body", "on_header", "quiet_s", "reads"),
        *("reused", "seen", "status", "transport"),
    )

    def __init__(self, pool: ConnectionOwner) -> None:
        self._pool = pool
        self.transport: Any = None
        self._sink: ResponseSink | None = None
        self._named: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        # The parser calls C functions of dict and list for headers and body, no Python frames.
        self.on_header = self._named.setdefault
        self.on_body = self._parts.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self.headers: dict[bytes, bytes] = {}
        self.reused = False
        self.idle_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport

    def send(self, sink: ResponseSink, head: bytes, body: bytes) -> None:
        """Send a request, and name the receiver of its answer."""
        self._sink = sink
        self.status = self.reads = self.seen = 0
        self.quiet_s = 0.0
        self.complete = self._head = self._expects_end = self.kept = False
        self._pool.busy.add(self)
        put = self._pool.batcher.put
        # One segment for head and body: the engine reads both at once.
        if len(body) < BIG:
            put(self.transport, head + body)
        else:
            put(self.transport, head)
            put(self.transport, body)

    def pause(self) -> None:
        """Stop reading, so that TCP flow control makes the engine wait."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again after a pause."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once, which cancels the engine's work; the receiver gets no further call."""
        self._sink = None
        self._pool.busy.discard(self)
        self.transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and pass head, body and end on with as few calls as possible."""
        sink = self._sink
        if sink is None:
            self.transport.abort()
            return
        self.reads += 1
        before, parts = self._head, self._parts
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Fault.BROKEN, type(error).__name__)
            return
        body = b""
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        if not before and self._head and self._begun(sink, body):
            return
        if body and self._sink is sink:
            sink.on_body(body)
        if self.complete and self._sink is sink:
            self._give_back()
            sink.on_end()

    def _begun(self, sink: ResponseSink, body: bytes) -> bool:
        """Pass a head on; return True if the complete answer came with the head."""
        if not self.complete:
            sink.on_head(self)
            return False
        self._give_back()
        sink.on_complete(self, body)
        return True

    def on_headers_complete(self) -> None:
        """Record status and headers; an interim answer (1xx) does not count as a head."""
        status = self.status = self._parser.get_status_code()
        headers = self.headers = {name.lower(): value for name, value in self._named.items()}
        self._named.clear()
        if status < INTERIM:
            return
        self._head = True
        # Without a length and without chunks, only the end of the connection ends the body.
        self._expects_end = (
            b"content-length" not in headers
            and b"transfer-encoding" not in headers
            and status not in NO_BODY
        )

    def on_message_complete(self) -> None:
        """Record that the answer is complete."""
        if self._head:
            self.complete = True
            self.kept = self._parser.should_keep_alive()

    def _give_back(self) -> None:
        """Return the connection to the pool, or close a connection that cannot be kept."""
        self._sink = None
        self._pool.busy.discard(self)
        if self.kept and not self.transport.is_closing():
            # The client may have been slow until the last byte; a paused connection would never
            # show the next answer.
            if not self.transport.is_reading():
                self.transport.resume_reading()
            self._pool.keep(self)
        else:
            self.transport.close()

    def _fail(self, fault: Fault, detail: str) -> None:
        sink, self._sink = self._sink, None
        self._pool.busy.discard(self)
        self.transport.abort()
        if sink is not None:
            sink.on_error(fault, detail)

    def connection_lost(self, exc: Exception | None) -> None:
        """End an answer delimited by the connection's end, or report that the answer broke off."""
        self._pool.forget(self)
        sink, self._sink = self._sink, None
        if sink is None:
            return
        self._pool.busy.discard(self)
        if self._head and self._expects_end and exc is None:
            sink.on_end()
        # The replica closed the kept connection just as the request was sent: not a byte came, so
        # the request can be sent again.
        elif self.reused and not self.reads:
            sink.on_error(Fault.STALE, type(exc).__name__)
        else:
            sink.on_error(Fault.BROKEN, type(exc).__name__)

    def look(self, passed_s: float, limit_s: float) -> None:
        """Fail the answer if no byte arrived for too long.

        Args:
            passed_s: seconds since the last call.
            limit_s: the longest allowed silence in seconds.
        """
        if self.reads != self.seen:
            self.seen, self.quiet_s = self.reads, 0.0
            return
        self.quiet_s += passed_s
        # While the client is slow and reading is paused, the silence is not the engine's.
        if self.quiet_s >= limit_s and self.transport.is_reading():
            self._fail(Fault.SILENT, f"{limit_s:g} s")
