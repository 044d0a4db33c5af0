"""One connection to a replica: bytes go on in the callback in which they came."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import httptools

if TYPE_CHECKING:
    from gateway_lite.outbox import Outbox

BIG = 256 * 1024
"""Bytes above which a body is not copied to stand behind its head."""
NO_BODY = frozenset({204, 304})
INTERIM = 200


class Fault(Enum):
    """How an upstream failed; decides what may be tried next."""

    UNREACHABLE = "cannot be reached"
    STALE = "closed a kept connection"
    BROKEN = "broke off"
    SILENT = "stays silent"
    STUCK = "does not move"
    TOO_LARGE = "answers with too much"


class Sink(Protocol):
    """Takes one answer as it comes; one of ``whole``, ``ended`` and ``broke`` comes last."""

    def whole(self, link: Link, body: bytes) -> None:
        """All of it came at once; the connection is free for others."""

    def answered(self, link: Link) -> None:
        """The head is here."""

    def came(self, data: bytes) -> None:
        """Bytes of the body are here."""

    def ended(self) -> None:
        """The answer is complete."""

    def broke(self, fault: Fault, detail: str) -> None:
        """No more will come."""


class Owner(Protocol):
    """The pool that a connection belongs to."""

    busy: set[Link]
    outbox: Outbox

    def keep(self, link: Link) -> None:
        """Keep a connection for later."""

    def forget(self, link: Link) -> None:
        """Keep a connection no longer that is closed."""


class Link(asyncio.Protocol):
    """One connection.

    Attributes:
        transport: what it is made of.
        status: of the answer under way.
        headers: of that, with lower-case names.
        reads: how often bytes came; a watch sees by it whether any did.
        seen: that number when the watch last looked.
        quiet_s: seconds without bytes, as the watch counts them.
    """

    __slots__ = (
        *("_expects_end", "_head", "_named", "_parser", "_parts", "_pool", "_sink"),
        *("complete", "headers", "idle_at", "kept", "on_body", "on_header", "quiet_s", "reads"),
        *("reused", "seen", "status", "transport"),
    )

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self.transport: Any = None
        self._sink: Sink | None = None
        self._named: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        # What the parser calls most is not worth a call of Python.
        self.on_header = self._named.setdefault
        self.on_body = self._parts.append
        self._parser: Any = httptools.HttpResponseParser(self)
        self.headers: dict[bytes, bytes] = {}
        self.reused = False
        self.idle_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = transport

    def send(self, sink: Sink, head: bytes, body: bytes) -> None:
        """Send a request, and give its answer to the sink."""
        self._sink = sink
        self.status = self.reads = self.seen = 0
        self.quiet_s = 0.0
        self.complete = self._head = self._expects_end = self.kept = False
        self._pool.busy.add(self)
        put = self._pool.outbox.put
        if len(body) < BIG:
            put(self.transport, head + body)
        else:
            put(self.transport, head)
            put(self.transport, body)

    def pause(self) -> None:
        """Read no more until told so: the engine has to wait."""
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once, which cancels the work; the sink hears nothing more."""
        self._sink = None
        self._pool.busy.discard(self)
        self.transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse, and hand on what came in one piece."""
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
            sink.came(body)
        if self.complete and self._sink is sink:
            self._give_back()
            sink.ended()

    def _begun(self, sink: Sink, body: bytes) -> bool:
        """Hand on a head; True where the rest came with it."""
        if not self.complete:
            sink.answered(self)
            return False
        self._give_back()
        sink.whole(self, body)
        return True

    def on_headers_complete(self) -> None:
        """Note the status; an interim answer is none."""
        status = self.status = self._parser.get_status_code()
        headers = self.headers = {name.lower(): value for name, value in self._named.items()}
        self._named.clear()
        if status < INTERIM:
            return
        self._head = True
        self._expects_end = (
            b"content-length" not in headers
            and b"transfer-encoding" not in headers
            and status not in NO_BODY
        )

    def on_message_complete(self) -> None:
        """Note that the answer is whole."""
        if self._head:
            self.complete = True
            self.kept = self._parser.should_keep_alive()

    def _give_back(self) -> None:
        """Keep the connection for the next request."""
        self._sink = None
        self._pool.busy.discard(self)
        if self.kept and not self.transport.is_closing():
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
            sink.broke(fault, detail)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the answer, where only this can end it, or say that it broke off."""
        self._pool.forget(self)
        sink, self._sink = self._sink, None
        if sink is None:
            return
        self._pool.busy.discard(self)
        if self._head and self._expects_end and exc is None:
            sink.ended()
        elif self.reused and not self.reads:
            sink.broke(Fault.STALE, type(exc).__name__)
        else:
            sink.broke(Fault.BROKEN, type(exc).__name__)

    def look(self, passed_s: float, limit_s: float) -> None:
        """Give the answer up where no byte came for too long.

        Args:
            passed_s: seconds since the last look.
            limit_s: seconds of silence that are too much.
        """
        if self.reads != self.seen:
            self.seen, self.quiet_s = self.reads, 0.0
            return
        self.quiet_s += passed_s
        if self.quiet_s >= limit_s and self.transport.is_reading():
            self._fail(Fault.SILENT, f"{limit_s:g} s")
