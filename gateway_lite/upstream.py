"""Connections to replicas: the only place that opens any; bytes go on in the callback they came in.

The engines close a connection that was idle for five seconds, so that ours must not be kept longer.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway_lite.settings import Settings

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
    TOO_LARGE = "answers with too much"


class Sink(Protocol):
    """Takes one answer as it comes; exactly one of ``ended`` and ``broke`` comes last."""

    def answered(self, link: Link) -> None:
        """The head is here."""

    def came(self, data: bytes) -> None:
        """Bytes of the body are here."""

    def ended(self) -> None:
        """The answer is complete."""

    def broke(self, fault: Fault, detail: str) -> None:
        """No more will come."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a replica listens.

    Attributes:
        address: base address as it is configured; the identity of the pool.
        unix: path of a Unix socket that is dialled in place of host and port.
        prefix: path before those of the API.
        name: what the Host header says.
    """

    address: str
    host: str
    port: int
    tls: bool
    prefix: str
    name: str
    unix: str | None = None


def target(address: str, unix: str | None = None) -> Target:
    """Return what a base address such as ``http://node:8000`` means."""
    parts = urlsplit(address)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    return Target(address, host, port, tls, parts.path.rstrip("/"), parts.netloc, unix)


class Link(asyncio.Protocol):
    """One connection.

    Attributes:
        status: of the answer under way.
        headers: of that, with lower-case names.
        reads: how often bytes came; a watch sees by it whether any did.
        seen: that number when the watch last looked.
        quiet_s: seconds without bytes, as the watch counts them.
    """

    __slots__ = (
        *("_expects_end", "_head", "_parser", "_parts", "_pool", "_sink", "_transport"),
        *("complete", "headers", "idle_at", "kept", "quiet_s", "reads", "reused", "seen", "status"),
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._sink: Sink | None = None
        self._parts: list[bytes] = []
        self.reused = False
        self.idle_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport

    def send(self, sink: Sink, head: bytes, body: bytes) -> None:
        """Send a request, and give its answer to the sink."""
        self._sink = sink
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = self.reads = self.seen = 0
        self.quiet_s = 0.0
        self.complete = self._head = self._expects_end = self.kept = False
        self._pool.busy.add(self)
        if len(body) < BIG:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self) -> None:
        """Read no more until told so: the engine has to wait."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once, which cancels the work; the sink hears nothing more."""
        self._sink = None
        self._pool.busy.discard(self)
        self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    @property
    def closing(self) -> bool:
        """Whether no request can be sent on it any more."""
        return bool(self._transport.is_closing())

    def data_received(self, data: bytes) -> None:
        """Parse, and hand on what came in one piece."""
        if self._sink is None:
            self._transport.abort()
            return
        self.reads += 1
        before, parts = self._head, self._parts
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Fault.BROKEN, type(error).__name__)
            return
        sink = self._sink
        if self._head and not before:
            sink.answered(self)
        if parts:
            whole = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            if self._sink is sink:
                sink.came(whole)
        if self.complete and self._sink is sink:
            self._over(sink)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Note the status; an interim answer is none."""
        self.status = self._parser.get_status_code()
        if self.status < INTERIM:
            self.headers.clear()
            return
        self._head = True
        self._expects_end = self.status not in NO_BODY and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self.headers
        )

    def on_body(self, data: bytes) -> None:
        """Note bytes of the body."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Note that the answer is whole."""
        if self._head:
            self.complete = True
            self.kept = self._parser.should_keep_alive()

    def _over(self, sink: Sink) -> None:
        """Keep the connection for the next request, then tell the sink."""
        self._sink = None
        self._pool.busy.discard(self)
        if self.kept and not self._transport.is_closing():
            self._transport.resume_reading()
            self._pool.keep(self)
        else:
            self._transport.close()
        sink.ended()

    def _fail(self, fault: Fault, detail: str) -> None:
        sink, self._sink = self._sink, None
        self._pool.busy.discard(self)
        self._transport.abort()
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
        if self.quiet_s >= limit_s and self._transport.is_reading():
            self._fail(Fault.SILENT, f"{limit_s:g} s")


class Dial:
    """A connection that is being opened, and then that connection."""

    __slots__ = ("_link", "_task")

    def __init__(self) -> None:
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, pool: Pool, sink: Sink, head: bytes, body: bytes) -> asyncio.Task[None]:
        """Begin to open it; the request follows."""
        task = asyncio.get_running_loop().create_task(self._open(pool, sink, head, body))
        self._task = task
        return task

    async def _open(self, pool: Pool, sink: Sink, head: bytes, body: bytes) -> None:
        try:
            link = await pool.dial()
        except (OSError, asyncio.TimeoutError) as error:
            sink.broke(Fault.UNREACHABLE, type(error).__name__)
            return
        self._link = link
        link.send(sink, head, body)

    def abort(self) -> None:
        """Give it up."""
        if self._link is not None:
            self._link.abort()
        elif self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """Read no more until told so."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """Read on."""
        if self._link is not None:
            self._link.resume()


class Pool:
    """Connections to one target; the one used last is used next."""

    __slots__ = ("_closed", "_idle", "_settings", "_tls", "busy", "target")

    def __init__(self, where: Target, settings: Settings) -> None:
        self.target = where
        self.busy: set[Link] = set()
        self._idle: list[Link] = []
        self._settings = settings
        self._tls = ssl.create_default_context() if where.tls else None
        self._closed = False

    def take(self, now: float) -> Link | None:
        """Return a kept connection that the engine will not close just now, or None."""
        while self._idle:
            link = self._idle.pop()
            if now - link.idle_at < self._settings.pool_idle_s and not link.closing:
                link.reused = True
                return link
            link.close()
        return None

    def keep(self, link: Link) -> None:
        """Keep a connection for later."""
        if self._closed:
            link.close()
            return
        link.idle_at = asyncio.get_running_loop().time()
        self._idle.append(link)

    def forget(self, link: Link) -> None:
        """Keep a connection no longer that is closed."""
        if link in self._idle:
            self._idle.remove(link)

    async def dial(self) -> Link:
        """Open a connection.

        Raises:
            OSError: it cannot be opened.
            asyncio.TimeoutError: not in time.
        """
        loop, where = asyncio.get_running_loop(), self.target
        if where.unix is not None:
            opening = loop.create_unix_connection(lambda: Link(self), where.unix)
        else:
            opening = loop.create_connection(
                lambda: Link(self), where.host, where.port, ssl=self._tls
            )
        _, link = await asyncio.wait_for(opening, self._settings.connect_s)
        return link

    def look(self, now: float, passed_s: float) -> None:
        """Close what was idle for too long, and give up what is silent."""
        while self._idle and now - self._idle[0].idle_at >= self._settings.pool_idle_s:
            self._idle.pop(0).close()
        for link in tuple(self.busy):
            link.look(passed_s, self._settings.idle_s)

    def close(self) -> None:
        """Close what is idle, and keep nothing any more."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class Upstream:
    """The pools of all replicas.

    Args:
        settings: how long to wait and to keep.
        unix: Unix socket that everything goes to; None means TCP, by address.
    """

    def __init__(self, settings: Settings, unix: str | None = None) -> None:
        self._settings = settings
        self._unix = unix
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}
        self._retired: list[Pool] = []
        self._dials: set[asyncio.Task[None]] = set()

    def pool(self, address: str) -> Pool:
        """Return the pool of a replica's base address."""
        found = self._pools.get(address)
        if found is None:
            found = self._pools[address] = Pool(target(address, self._unix), self._settings)
        return found

    def send(self, pool: Pool, sink: Sink, head: bytes, body: bytes, *, fresh: bool) -> Link | Dial:
        """Send a request on a kept or a new connection; its answer goes to the sink.

        Args:
            pool: that of the replica.
            sink: takes the answer, or that there is none.
            head: request line and headers, with the blank line.
            body: the request's bytes.
            fresh: open a new connection, as a kept one has just failed.
        """
        link = None if fresh else pool.take(self._loop.time())
        if link is not None:
            link.send(sink, head, body)
            return link
        dial = Dial()
        task = dial.start(pool, sink, head, body)
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return dial

    def keep(self, addresses: Collection[str]) -> None:
        """Keep connections to these replicas only; what is under way to others still ends well."""
        for address in self._pools.keys() - set(addresses):
            pool = self._pools.pop(address)
            pool.close()
            self._retired.append(pool)
        self._retired = [pool for pool in self._retired if pool.busy]

    def look(self, passed_s: float) -> None:
        """Watch all connections; called again and again.

        Args:
            passed_s: seconds since the last time.
        """
        now = self._loop.time()
        for pool in (*self._pools.values(), *self._retired):
            pool.look(now, passed_s)

    async def close(self) -> None:
        """Close all connections."""
        for task in self._dials:
            task.cancel()
        for pool in (*self._pools.values(), *self._retired):
            pool.close()
            for link in tuple(pool.busy):
                link.abort()
        await asyncio.sleep(0)

