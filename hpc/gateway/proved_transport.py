"""Connections of httpx to the gateway of the machine, each proved before its first request.

A pool opens connections when it likes: after an idle time, after an error, beside a busy one. So
the proof belongs to the opening, below the pool, and no request can be sent around it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx

from hpc import peer_proof
from hpc.gateway import reach
from hpc.peer_proof import NotProved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hpc.gateway.reach import Way
    from hpc.model import GatewayRecord

IDLE_S = 5.0
"""Seconds that an idle connection is kept, as httpx keeps one."""


class ProvedTransport(httpx.AsyncHTTPTransport):
    """A transport whose connections lead to a recorded gateway, without proxies or redirects.

    Args:
        find: returns the gateway's record, or None while no gateway runs; called in a thread for
            each connection, so that a gateway that was started anew is found.
    """

    def __init__(self, find: Callable[[], GatewayRecord | None]) -> None:
        # httpx has no parameter for the network of its pool; certificates are not needed.
        super().__init__(verify=False, trust_env=False)
        backend = ProvedNetwork(find)
        self._pool = httpcore.AsyncConnectionPool(network_backend=backend, keepalive_expiry=IDLE_S)


class ProvedNetwork(httpcore.AsyncNetworkBackend):
    """The opening of connections to a recorded gateway.

    Any failure is a ``ConnectError``: nothing was sent, so nothing counts as a try.

    Args:
        find: returns the gateway's record, or None; may block.
    """

    def __init__(self, find: Callable[[], GatewayRecord | None]) -> None:
        self._find = find
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a proved connection to the gateway, whatever the address of the request.

        Raises:
            httpcore.ConnectError: no gateway runs, or none proved itself.
        """
        del host, port, local_address, socket_options
        record = await asyncio.to_thread(self._find)
        if record is None:
            raise httpcore.ConnectError("no gateway runs on this machine")
        reason: Exception | None = None
        for way in await asyncio.to_thread(reach.ways, record):
            patience_s = reach.PROVE_S if timeout is None else min(timeout, reach.PROVE_S)
            try:
                with anyio.fail_after(patience_s):
                    return await self._connect(record, way)
            except (httpcore.NetworkError, httpcore.TimeoutException, OSError, NotProved) as error:
                reason = reason or error
        raise httpcore.ConnectError(str(reach.not_reached(record, reason)))

    async def _connect(self, record: GatewayRecord, way: Way) -> httpcore.AsyncNetworkStream:
        if isinstance(way, str):
            stream = await self._network.connect_unix_socket(way)
        else:
            stream = await self._network.connect_tcp(*way)
        try:
            sock = stream.get_extra_info("socket")
            if isinstance(way, str):
                reach.check_user(sock)
            far_end = None if isinstance(way, str) else sock.getpeername()[:2]
            proof = reach.handshake(record, far_end)
            await stream.write(proof.request)
            while not proof.feed(await stream.read(peer_proof.MOST_BYTES)):
                pass
        except BaseException:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            raise
        return stream
