"""The sidecar's request handler: connections that prove themselves, and one engine behind it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.catalog.replica import Replica
from gateway_lite.request.context import Reply, refusal
from gateway_lite.request.large_requests import LargeRequests
from gateway_lite.upstream import handshake, request_head
from gateway_lite.upstream.pool import Peer
from gateway_lite.wire import media_urls
from gateway_lite.wire.body_budget import BodyBudget
from hpc.api_paths import FORMS, POST_PATHS
from hpc.peer_proof import HANDSHAKE_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import NoReturn

    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.context import (
        ClientConnection,
        QueueEntry,
        RequestContext,
        ThreadWork,
    )
    from gateway_lite.routing.replica_state import Outcome
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.upstream.connection import ResponseSink, UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Upstream

PATHS = {
    b"POST": POST_PATHS,
    b"GET": ("/v1/models", "/props", "/health", "/metrics", HANDSHAKE_PATH),
}
BY_ID = re.compile(rb"/v1/responses/resp_[A-Za-z0-9_-]{1,128}(/cancel)?")
"""Paths of single responses, which their replica keeps."""
HOT = {(method, path.encode()): path for method, paths in PATHS.items() for path in paths}


@dataclass(frozen=True, slots=True)
class SidecarOptions:
    """The options of one sidecar.

    Attributes:
        unix: path of the engine's Unix socket, or None.
        port: the engine's port on loopback, if it has no Unix socket.
        secret_file: file with the secret that both sides of a connection prove; read once.
        engine_key_env: variable with the key that the engine needs, or None.
        host: address to bind.
        bind_ports: lowest and highest TCP port to bind; 0 and 0 take any free port.
        ready_file: file that gets ``{"port": N}`` once the port is bound.
        tls_cert: PEM file with the certificate, or None without TLS.
        tls_key: PEM file of the certificate's key, mode 0600.
        media_domains: hosts that the engine may fetch media from.
    """

    unix: str | None
    port: int | None
    secret_file: Path
    engine_key_env: str | None
    host: str
    bind_ports: tuple[int, int]
    ready_file: Path
    tls_cert: str | None = None
    tls_key: str | None = None
    media_domains: tuple[str, ...] = ()


def proved(client: ClientConnection) -> bool:
    """Return whether a connection has proved that it comes from the replica's gateway."""
    return client.handshake is not None and client.handshake.state == "done"


class SidecarHandler:
    """The sidecar's request handler: lets connections prove themselves, forwards to the engine.

    Args:
        options: options of the sidecar.
        secret: the secret that both sides of a connection prove.
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
        self.id = "gateway"  # of the only client, for the table of connections
        self.in_flight = in_flight
        self.batcher = upstream.batcher
        self.settings = settings
        # The gateway, the only client, bounds the bodies of its clients.
        self.bodies = BodyBudget(sys.maxsize)
        self.turns = LargeRequests()
        self._secret = secret
        self._media_domains = frozenset(options.media_domains)
        self._key = os.environ.pop(options.engine_key_env, None) if options.engine_key_env else None
        base = f"http://127.0.0.1:{options.port}" if options.unix is None else "http://engine"
        self._upstream = upstream
        self._pool = upstream.pool(Peer(base))
        self._starts: dict[tuple[bytes, str], bytes] = {}
        self._lease = EngineLease(Replica("engine", "engine", base))

    def check(self, context: RequestContext) -> None:
        """Refuse requests of an unproved connection, and announced bodies above the limit."""
        headers = context.request.headers
        if context.path == HANDSHAKE_PATH:
            # A stranger's body would be kept in memory until its end.
            if b"content-length" in headers or b"transfer-encoding" in headers:
                raise errors.unproved()
            return
        found = context.client.handshake
        if found is None or found.state != "done":
            raise errors.unproved()
        if self.in_flight.draining:
            raise errors.draining()
        context.principal = self
        if context.request.too_large:
            raise errors.too_large(self.settings.body_bytes)

    def also_hot(self, method: bytes, path: bytes) -> str | None:
        """Return the path of a request for a single response, or None."""
        found = BY_ID.fullmatch(path)
        if found is None or method not in ((b"POST",) if found[1] else (b"GET", b"DELETE")):
            return None
        return path.decode()

    def inspect(self, context: RequestContext) -> Iterator[None]:
        """Refuse nothing; the gateway has done so."""
        del context
        return iter(())

    def admit(self, context: RequestContext) -> Reply | None:
        """Admit the request unchanged unless its media lie elsewhere, or answer a handshake."""
        if context.path == HANDSHAKE_PATH:
            return self._shake(context.client, context.request.headers)
        if context.path not in FORMS:
            media_urls.check(context.request.body, self._media_domains)
        context.body = context.request.body
        return None

    def _shake(self, client: ClientConnection, headers: Mapping[bytes, bytes]) -> Reply:
        if client.handshake is None:
            # The connection's own end, not the listener's 0.0.0.0.
            host, port = client.server or ("", None)
            if port is None:
                raise errors.unproved()
            client.handshake = handshake.ReplicaHandshake(self._secret, host, port)
        lines = client.handshake.answer(headers)
        if lines is None:
            raise errors.unproved()
        return Reply(200, lines, b"")

    def resume(self, context: RequestContext, body: bytes) -> NoReturn:
        """Never called: no request is worked on in a thread."""
        raise NotImplementedError

    def in_thread(self, work: ThreadWork) -> NoReturn:
        """Never called: no request is worked on in a thread."""
        raise NotImplementedError

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
            if (way[0], way[1].encode()) in HOT:  # ids would fill the memory
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
