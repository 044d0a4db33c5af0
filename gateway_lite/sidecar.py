"""The only door of a replica: one upstream, one secret, and only the paths that a gateway uses."""

from __future__ import annotations

import asyncio
import hmac
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.asgi import read_body, while_connected
from gateway_lite.edge import Edge, Gate
from gateway_lite.proxy import Fault, Upstream, UpstreamError, relay, upstream_headers
from gateway_lite.server import Server, listen
from hpc import state
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway_lite.asgi import Receive, Scope, Send
    from gateway_lite.proxy import Reply
    from gateway_lite.settings import Settings

PATHS = frozenset(
    {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/rerank"),
        ("GET", "/v1/models"),
        ("GET", "/health"),
        ("GET", "/metrics"),
    }
)
PARENT_S = 0.5
"""Seconds between two looks at whether the process that started us still lives."""


@dataclass(frozen=True, slots=True)
class Door:
    """What one sidecar is told.

    Attributes:
        unix: the engine's Unix socket, or None.
        port: the engine's port on loopback where it has no Unix socket.
        secret_file: file with the secret that callers need; read once.
        engine_key_env: variable with the key that the engine needs, or None.
        host: address to bind.
        bind_port: TCP port to bind; 0 takes a free one.
        ready_file: file that gets ``{"port": N}`` when the port is bound.
    """

    unix: str | None
    port: int | None
    secret_file: Path
    engine_key_env: str | None
    host: str
    bind_port: int
    ready_file: Path


class Engine:
    """The application behind the door.

    Args:
        door: where the engine is.
        upstream: connections to it.
        gate: ends what is under way.
        settings: sizes.
    """

    def __init__(self, door: Door, upstream: Upstream, gate: Gate, settings: Settings) -> None:
        self._base = f"http://127.0.0.1:{door.port}" if door.unix is None else "http://engine"
        self._key = os.environ.pop(door.engine_key_env, None) if door.engine_key_env else None
        self._upstream = upstream
        self._gate = gate
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if (scope["method"], scope["path"]) not in PATHS:
            raise errors.not_found(scope["path"])
        body = await read_body(scope, receive, self._settings.body_bytes)
        await while_connected(receive, self._serve(scope, body, send), self._gate.expired)

    async def _serve(self, scope: Scope, body: bytes, send: Send) -> None:
        headers = upstream_headers(scope)
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        method, url = scope["method"], self._base + scope["path"]
        content = body if method == "POST" else None
        ask = partial(self._upstream.open, method, url, headers=headers, body=content)
        reply = await _twice(ask)
        try:
            await relay(reply, send, [])
        finally:
            reply.close()


async def _twice(ask: Callable[..., Awaitable[Reply]]) -> Reply:
    """Ask the engine, and again where a kept connection was perhaps closed under us."""
    try:
        return await ask()
    except UpstreamError as error:
        if error.fault is not Fault.BROKEN:
            raise _answer(error) from error
    try:
        return await ask(fresh=True)
    except UpstreamError as error:
        raise _answer(error) from error


def _answer(error: UpstreamError) -> errors.ApiError:
    message = f"the engine {error.fault.value}"
    if error.fault is Fault.SILENT:
        return errors.upstream_timeout(message)
    if error.fault is Fault.UNREACHABLE:
        return errors.upstream_unreachable(message)
    return errors.upstream_error(message)


async def serve(door: Door, settings: Settings) -> None:
    """Keep the door until SIGTERM, or until the process that started us is gone.

    Raises:
        ConfigError: the secret cannot be read.
        GatewayError: the port cannot be bound.
        StateError: the ready file cannot be written.
    """
    secret = (state.read_text(door.secret_file) or "").strip().encode()
    if not secret:
        raise ConfigError(f"cannot read a secret from {door.secret_file}")
    gate = Gate()
    upstream = Upstream(settings, door.unix)
    engine = Engine(door, upstream, gate, settings)
    app = Edge(
        engine,
        lambda token: True if hmac.compare_digest(token, secret) else None,
        gate,
        open_health=False,
    )
    server = Server(app, gate, settings)
    watch = asyncio.create_task(_end_with_parent(server, os.getppid()))
    with listen(door.host, door.bind_port) as sock:
        state.write_text(door.ready_file, f'{{"port": {sock.getsockname()[1]}}}\n')
        await server.serve(sockets=[sock])
    watch.cancel()
    await upstream.close()


async def _end_with_parent(server: Server, parent: int) -> None:
    """End when our parent process did: a door without its owner is nobody's."""
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel tells nobody but by asking
        await asyncio.sleep(PARENT_S)
    server.end()
    server.end()
