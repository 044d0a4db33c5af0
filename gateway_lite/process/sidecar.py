"""The sidecar, a replica's only network listener: a single engine, a proof, and few paths."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.http.listeners import Listener, Tls, listen, tls_context
from gateway_lite.http.server import Server
from gateway_lite.in_flight import InFlight
from gateway_lite.request.sidecar_handler import HOT, SidecarHandler, SidecarOptions, proved
from gateway_lite.upstream.pool import Upstream
from gateway_lite.wire.asgi import send_error
from gateway_lite.wire.write_batching import WriteBatcher
from hpc.errors import ConfigError, GatewayError
from hpc.state import files

if TYPE_CHECKING:
    import socket

    from gateway_lite.settings import GatewaySettings
    from gateway_lite.wire.asgi import Receive, Scope, Send

BIND_ROUNDS = 10
BIND_EVERY_S = 2.0
"""Seconds between two rounds over the ports of a range; an ended replica's port may come free."""
PARENT_S = 0.5
"""Seconds between two checks that the parent process still lives."""


async def _closed(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse all paths that no gateway uses."""
    del receive
    known = proved(scope["state"]["connection"])
    error = errors.not_found(scope["path"]) if known else errors.unproved()
    await send_error(send, error, scope["path"])


async def _listen(host: str, low: int, high: int) -> socket.socket:
    """Return a listening socket at a free port of a range.

    The search begins anywhere, so that replicas that start together on a node rarely meet.

    Raises:
        GatewayError: no port of the range has come free, or the address cannot be bound.
    """
    ports = range(low, high + 1)
    first = secrets.randbelow(len(ports))
    for again in range(BIND_ROUNDS):
        for port in (*ports[first:], *ports[:first]):
            try:
                return listen(host, port)
            except GatewayError as error:
                found = error
                if not _in_use(error):
                    raise
        if again + 1 < BIND_ROUNDS:
            await asyncio.sleep(BIND_EVERY_S)
    if low == high:
        raise found
    raise GatewayError(f"no port from {low} to {high} is free on this node")


def _in_use(error: GatewayError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


async def serve(door: SidecarOptions, settings: GatewaySettings) -> None:
    """Serve until SIGTERM, or until the parent process has ended.

    Raises:
        ConfigError: the secret, the certificate or its key cannot be used.
        GatewayError: the port cannot be bound.
        StateError: the ready file cannot be written.
    """
    secret = (files.read_text(door.secret_file) or "").strip().encode()
    if not secret:
        raise ConfigError(f"cannot read a secret from {door.secret_file}")
    tls = door.tls_cert and door.tls_key and Tls(door.tls_cert, door.tls_key)
    context = tls_context(tls) if tls else None
    in_flight = InFlight()
    upstream = Upstream(settings, WriteBatcher(), door.unix)
    with await _listen(door.host, *door.bind_ports) as sock:
        port = sock.getsockname()[1]
        handler = SidecarHandler(door, secret, upstream, in_flight, settings)
        server = Server(_closed, handler, HOT, upstream.look, [Listener(sock, context)])
        watch = asyncio.create_task(_end_with_parent(server, os.getppid()))
        files.write_text(door.ready_file, f'{{"port": {port}}}\n')
        await server.serve(sockets=[])
    watch.cancel()
    await upstream.close()


async def _end_with_parent(server: Server, parent: int) -> None:
    """End the server when the parent process has ended."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel tells nobody but by asking
        await asyncio.sleep(PARENT_S)
    server.end()
    server.end()
