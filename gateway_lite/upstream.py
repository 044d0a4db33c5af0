"""Connections to replicas: the only place that opens any.

The engines close a connection that was idle for five seconds, so that ours must not be kept longer.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway_lite.link import Fault, Link, Sink

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway_lite.outbox import Outbox
    from gateway_lite.settings import Settings


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
        self._link, self._task = link, None
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

    __slots__ = (
        "_closed",
        "_idle",
        "_idle_s",
        "_loop",
        "_settings",
        "_tls",
        "busy",
        "outbox",
        "target",
    )

    def __init__(self, where: Target, settings: Settings, outbox: Outbox) -> None:
        self.target = where
        self.outbox = outbox
        self.busy: set[Link] = set()
        self._idle: list[Link] = []
        self._idle_s = settings.pool_idle_s
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._tls = ssl.create_default_context() if where.tls else None
        self._closed = False

    def take(self, now: float) -> Link | None:
        """Return a kept connection that the engine will not close just now, or None."""
        idle = self._idle
        while idle:
            link = idle.pop()
            if now - link.idle_at < self._idle_s and not link.transport.is_closing():
                link.reused = True
                return link
            link.close()
        return None

    def keep(self, link: Link) -> None:
        """Keep a connection for later."""
        if self._closed:
            link.close()
            return
        link.idle_at = self._loop.time()
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
        loop, where = self._loop, self.target
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
        while self._idle and now - self._idle[0].idle_at >= self._idle_s:
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
        outbox: takes what is sent.
        unix: Unix socket that everything goes to; None means TCP, by address.
    """

    def __init__(self, settings: Settings, outbox: Outbox, unix: str | None = None) -> None:
        self._settings = settings
        self.outbox = outbox
        self._unix = unix
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, Pool] = {}
        self._retired: list[Pool] = []
        self._dials: set[asyncio.Task[None]] = set()

    def pool(self, address: str) -> Pool:
        """Return the pool of a replica's base address."""
        found = self._pools.get(address)
        if found is None:
            where = target(address, self._unix)
            found = self._pools[address] = Pool(where, self._settings, self.outbox)
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
