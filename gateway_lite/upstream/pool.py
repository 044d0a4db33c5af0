"""Connections to replicas; no other module opens any.

Engines close a connection after five idle seconds, so the gateway closes idle connections earlier.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from gateway_lite.upstream.connection import Fault, ResponseSink, UpstreamConnection
from gateway_lite.upstream.first_proved import first_proved
from gateway_lite.upstream.handshake import HandshakeProtocol
from hpc.peer_proof import NotProved, WrongSecret, pinned

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway_lite.settings import GatewaySettings
    from gateway_lite.wire.write_batching import WriteBatcher


class Peer(NamedTuple):
    """The far end of a pool's connections, and its identity.

    Attributes:
        address: base address, such as ``http://node:8000``.
        secret: secret that both sides of a connection prove, or None for a server of somebody else.
        certificate: PEM of the only certificate that is accepted, or None for the usual rules.
        others: further names and addresses of a far end with a secret, in the order to try.
        ca: PEM of the authority that is trusted in place of this machine's, or None.
    """

    address: str
    secret: str | None = None
    certificate: str | None = None
    others: tuple[str, ...] = ()
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """The address of a replica.

    Attributes:
        address: base address from the configuration; identity of the pool.
        host: host name or address.
        port: TCP port.
        tls: whether the connection uses TLS.
        prefix: path before the paths of the API.
        name: value of the Host header.
        unix: path of a Unix socket that is dialled in place of host and port.
    """

    address: str
    host: str
    port: int
    tls: bool
    prefix: str
    name: str
    unix: str | None = None


def parse_address(address: str, unix: str | None = None) -> UpstreamAddress:
    """Return the parts of a base address such as ``http://node:8000``."""
    parts = urlsplit(address)
    tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    return UpstreamAddress(address, host, port, tls, parts.path.rstrip("/"), parts.netloc, unix)


def tls_context(certificate: str | None, ca: str | None = None) -> ssl.SSLContext:
    """Return the TLS context of a server's connections.

    Args:
        certificate: PEM of the only certificate that is accepted, or None for the certificates that
            this machine trusts.
        ca: PEM of the authority that is trusted in place of this machine's, or None.
    """
    if certificate is None:
        return ssl.create_default_context(cadata=ca)
    return pinned(certificate)


class PendingConnection:
    """A connection that is being opened, and later the opened connection."""

    __slots__ = ("_link", "_task")

    def __init__(self) -> None:
        self._link: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, pool: Pool, sink: ResponseSink, head: bytes, body: bytes) -> asyncio.Task[None]:
        """Begin to open the connection; the request is sent afterwards."""
        task = asyncio.get_running_loop().create_task(self._open(pool, sink, head, body))
        self._task = task
        return task

    async def _open(self, pool: Pool, sink: ResponseSink, head: bytes, body: bytes) -> None:
        try:
            link = await pool.dial()
        except (WrongSecret, ssl.SSLCertVerificationError) as error:
            sink.on_error(pool.mistrust, str(error))
            return
        except (NotProved, OSError, asyncio.TimeoutError) as error:
            sink.on_error(Fault.UNREACHABLE, str(error) or type(error).__name__)
            return
        if link.transport.is_closing():
            sink.on_error(Fault.UNREACHABLE, "closed a new connection")
            return
        self._link, self._task = link, None
        link.send(sink, head, body)

    def abort(self) -> None:
        """Abort the connection, open or not."""
        if self._link is not None:
            self._link.abort()
        elif self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Close an open connection whose answer is complete."""
        if self._link is not None:
            self._link.close()

    def pause(self) -> None:
        """Stop reading from an open connection."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """Read again from an open connection."""
        if self._link is not None:
            self._link.resume()


class Pool:
    """The connections to one target; the most recently used connection is used next.

    Args:
        peer: the far end.
        where: the far end's address.
        settings: timeouts.
        batcher: the write batcher.
    """

    __slots__ = (
        "_closed",
        "_hosts",
        "_idle",
        "_idle_s",
        "_loop",
        "_secret",
        "_settings",
        "_tls",
        "batcher",
        "busy",
        "target",
    )

    def __init__(
        self, peer: Peer, where: UpstreamAddress, settings: GatewaySettings, batcher: WriteBatcher
    ) -> None:
        self.target = where
        self.batcher = batcher
        self.busy: set[UpstreamConnection] = set()
        self._idle: list[UpstreamConnection] = []
        self._idle_s = settings.pool_idle_s
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._secret = peer.secret
        self._hosts = (where.host, *peer.others)
        self._tls = tls_context(peer.certificate, peer.ca) if where.tls else None
        self._closed = False

    @property
    def mistrust(self) -> Fault:
        """The fault of a far end that does not prove to be the right one."""
        return Fault.UNTRUSTED if self._secret is None else Fault.UNPROVED

    def take(self, now: float) -> UpstreamConnection | None:
        """Return a kept connection that the engine will not close at once, or None."""
        idle = self._idle
        while idle:
            # The newest first, so that surplus connections grow old and are closed.
            link = idle.pop()
            if now - link.idle_at < self._idle_s and not link.transport.is_closing():
                link.reused = True
                return link
            link.close()
        return None

    def keep(self, link: UpstreamConnection) -> None:
        """Keep an idle connection for a later request."""
        if self._closed:
            link.close()
            return
        link.idle_at = self._loop.time()
        self._idle.append(link)

    def forget(self, link: UpstreamConnection) -> None:
        """Forget a closed connection."""
        if link in self._idle:
            self._idle.remove(link)

    async def dial(self) -> UpstreamConnection:
        """Open a connection, whose far end proves itself if it has a secret.

        Raises:
            OSError: the connection cannot be opened.
            NotProved: the far end is not the replica.
            asyncio.TimeoutError: the connection was not opened and proved in time.
        """
        if self._secret is None or self.target.unix is not None:
            return await asyncio.wait_for(self._dial(), self._settings.connect_s)
        return await self._dial_replica()

    async def _dial(self) -> UpstreamConnection:
        loop, where = self._loop, self.target
        if where.unix is not None:
            _, link = await loop.create_unix_connection(self._link, where.unix)
            return link
        _, link = await loop.create_connection(self._link, where.host, where.port, ssl=self._tls)
        return link

    async def _dial_replica(self) -> UpstreamConnection:
        """Open a connection to the first of the replica's hosts that proves itself."""
        host, link = await first_proved(
            self._hosts,
            self._dial_host,
            next_s=self._settings.next_host_s,
            limit_s=self._settings.connect_s,
        )
        if host != self._hosts[0]:  # the host that answered is tried first from now on
            self._hosts = (host, *(each for each in self._hosts if each != host))
        return link

    async def _dial_host(self, host: str) -> UpstreamConnection:
        """Open a connection to one of the replica's hosts, whose far end proves itself."""
        secret = str(self._secret)
        transport, handshake = await self._loop.create_connection(
            lambda: HandshakeProtocol(secret, self._link),
            host,
            self.target.port,
            ssl=self._tls,
        )
        try:
            return await handshake.proved
        except asyncio.CancelledError:
            transport.abort()
            raise

    def _link(self) -> UpstreamConnection:
        return UpstreamConnection(self)

    def look(self, now: float, passed_s: float) -> None:
        """Close connections that were idle for too long, and fail silent connections."""
        while self._idle and now - self._idle[0].idle_at >= self._idle_s:
            self._idle.pop(0).close()
        for link in tuple(self.busy):
            link.look(passed_s, self._settings.idle_s)

    def close(self) -> None:
        """Close all idle connections, and keep no further connection."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class Upstream:
    """The connection pools of all replicas.

    Args:
        settings: timeouts.
        batcher: the write batcher.
        unix: path of a Unix socket for all connections; None means TCP, by address.
    """

    def __init__(
        self, settings: GatewaySettings, batcher: WriteBatcher, unix: str | None = None
    ) -> None:
        self._settings = settings
        self.batcher = batcher
        self._unix = unix
        self._loop = asyncio.get_running_loop()
        self._pools: dict[Peer, Pool] = {}
        self._retired: list[Pool] = []
        self._dials: set[asyncio.Task[None]] = set()

    def pool(self, peer: Peer) -> Pool:
        """Return the pool of a far end, a new pool if needed."""
        found = self._pools.get(peer)
        if found is None:
            where = parse_address(peer.address, self._unix)
            found = self._pools[peer] = Pool(peer, where, self._settings, self.batcher)
        return found

    def send(
        self, pool: Pool, sink: ResponseSink, head: bytes, body: bytes, *, fresh: bool
    ) -> UpstreamConnection | PendingConnection:
        """Send a request on a kept or new connection; the receiver gets the answer.

        Args:
            pool: the replica's pool.
            sink: receiver of the answer or of a failure.
            head: request line and headers, with the blank line.
            body: the request's bytes.
            fresh: open a new connection, as a kept connection has just failed.
        """
        link = None if fresh else pool.take(self._loop.time())
        if link is not None:
            link.send(sink, head, body)
            return link
        dial = PendingConnection()
        task = dial.start(pool, sink, head, body)
        # The loop holds tasks weakly; without this reference an open dial could be collected.
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return dial

    def keep(self, peers: Collection[Peer]) -> None:
        """Close idle connections to all other replicas; answers in progress are not cut."""
        for peer in self._pools.keys() - set(peers):
            pool = self._pools.pop(peer)
            pool.close()
            self._retired.append(pool)
        self._retired = [pool for pool in self._retired if pool.busy]

    def look(self, passed_s: float) -> None:
        """Check the timeouts of all connections; called about once a second.

        Args:
            passed_s: seconds since the last call.
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
