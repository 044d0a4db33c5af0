"""The sidecar, a replica's only network listener: a single engine, a proof, and few paths."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.http.listeners import Listener, Tls, listen, tls_context
from gateway_lite.http.server import Server
from gateway_lite.in_flight import InFlight
from gateway_lite.request.sidecar_handler import HOT, SidecarHandler, SidecarOptions, proved
from gateway_lite.upstream.pool import Upstream
from gateway_lite.wire.asgi import send_error
from gateway_lite.wire.write_batching import WriteBatcher
from hpc.errors import ConfigError
from hpc.state import files

if TYPE_CHECKING:
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.wire.asgi import Receive, Scope, Send

PARENT_S = 0.5
"""Seconds between two checks that the parent process still lives."""


async def _closed(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse all paths that no gateway uses."""
    del receive
    known = proved(scope["state"]["connection"])
    error = errors.not_found(scope["path"]) if known else errors.unproved()
    await send_error(send, error, scope["path"])


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
    with listen(door.host, door.bind_port) as sock:
        port = sock.getsockname()[1]
        handler = SidecarHandler(door, secret, port, upstream, in_flight, settings)
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
