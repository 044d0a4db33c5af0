"""The sidecar's request handler: one secret, and one engine behind it."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.catalog.replica import Replica
from gateway_lite.request.context import refusal
from gateway_lite.telemetry.request_record import bearer
from gateway_lite.upstream import request_head
from gateway_lite.wire import media_urls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.context import QueueEntry, RequestContext
    from gateway_lite.routing.replica_state import Outcome
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.upstream.connection import ResponseSink, UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Upstream

PATHS = {
    b"POST": (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/rerank",
    ),
    b"GET": ("/v1/models", "/health", "/metrics"),
}
HOT = {(method, path.encode()): path for method, paths in PATHS.items() for path in paths}


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """The options of one sidecar.

    Attributes:
        unix: path of the engine's Unix socket, or None.
        port: the engine's port on loopback, if it has no Unix socket.
        secret_file: file with the secret that callers need; read once.
        engine_key_env: variable with the key that the engine needs, or None.
        host: address to bind.
        bind_port: TCP port to bind; 0 takes a free port.
        ready_file: file that gets ``{"port": N}`` once the port is bound.
        media_domains: hosts that the engine may fetch media from.
    """

    unix: str | None
    port: int | None
    secret_file: Path
    engine_key_env: str | None
    host: str
    bind_port: int
    ready_file: Path
    media_domains: tuple[str, ...] = ()


class SidecarHandler:
    """The sidecar's request handler: checks the secret and forwards to the engine.

    Args:
        options: options of the sidecar.
        secret: the secret that requests must carry.
        upstream: connections to the engine.
        in_flight: counter of requests in progress.
        settings: timeouts and bounds.
    """

    def __init__(
        self,
        options: SidecarOptions,
        secret: bytes,
        upstream: Upstream,
        in_flight: InFlight,
        settings: GatewaySettings,
    ) -> None:
        self.in_flight = in_flight
        self.batcher = upstream.batcher
        self.settings = settings
        self._secret = secret
        self._media_domains = frozenset(options.media_domains)
        self._key = os.environ.pop(options.engine_key_env, None) if options.engine_key_env else None
        base = f"http://127.0.0.1:{options.port}" if options.unix is None else "http://engine"
        self._upstream = upstream
        self._pool = upstream.pool(base)
        self._starts: dict[tuple[bytes, str], bytes] = {}
        self._lease = EngineLease(Replica("engine", "engine", base))

    def authenticate(self, token: bytes) -> bool | None:
        """Return True for the right secret, and None for any other token."""
        # In constant time: the duration tells a neighbour on the node nothing about the secret.
        return True if hmac.compare_digest(token, self._secret) else None

    def check(self, context: RequestContext) -> None:
        """Check the secret, and refuse an announced body above the limit."""
        if self.in_flight.draining:
            raise errors.draining()
        if not self.authenticate(bearer(context.request.headers.get(b"authorization", b""))):
            raise errors.unauthorized()
        if context.request.too_large:
            raise errors.too_large(self.settings.body_bytes)

    def admit(self, context: RequestContext) -> None:
        """Admit the request unchanged, unless the engine would fetch media from elsewhere."""
        media_urls.check(context.request.body, self._media_domains)
        context.body = context.request.body

    def place(self, context: RequestContext) -> EngineLease:
        """Return the lease of the engine."""
        del context
        return self._lease

    def wait(self, context: RequestContext, done: object) -> QueueEntry:
        """Never called: the engine queues requests."""
        raise NotImplementedError

    def send(
        self, context: RequestContext, replica: Replica, sink: ResponseSink, *, fresh: bool
    ) -> UpstreamConnection | PendingConnection:
        """Send the request to the engine."""
        del replica
        request = context.request
        way = (request.method, request.path)
        start = self._starts.get(way)
        if start is None:
            method = request.method.decode()
            start = request_head.request_start(method, self._pool.target, request.path, self._key)
            self._starts[way] = start
        name = context.record.name.encode()
        head = request_head.request_head(start, request.headers, name, len(context.body))
        return self._upstream.send(self._pool, sink, head, context.body, fresh=fresh)

    def another(self, context: RequestContext, *, worked: bool, elsewhere: bool) -> bool:
        """Return whether the engine gets a second attempt after a broken connection."""
        if elsewhere or not worked or context.replayed:
            return False
        context.replayed = True
        return True

    def renew(self, context: RequestContext, replica: Replica, done: object) -> NoReturn:
        """Refuse, as the engine's key never changes."""
        del context, replica, done
        raise errors.upstream_error("the engine refuses the sidecar's key")

    def lines(self, context: RequestContext) -> bytes:
        """Return the header line with the request's id."""
        return b"x-request-id: %b\r\n" % context.record.name.encode()

    def refusal(self, error: errors.ApiError, context: RequestContext) -> tuple[bytes, bytes]:
        """Return an error in OpenAI's form."""
        return refusal(error, context)

    def finished(self, context: RequestContext) -> None:
        """Record nothing; the gateway does."""


class EngineLease:
    """The lease of the only engine, which any number of requests share."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.on_stall: Callable[[], None] | None = None

    def moved(self) -> None:
        """Record nothing."""

    def release(self, outcome: Outcome) -> None:
        """Release nothing."""
