"""The state of a request during service."""

from __future__ import annotations

from collections.abc import Callable, Iterator  # noqa: TC003 - msgspec reads the types of fields
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from gateway_lite import errors
from gateway_lite.request.response import ByteStream
from gateway_lite.wire import content_coding, error_forms, response_head

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping
    from typing import Any

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.errors import ApiError
    from gateway_lite.features.pipeline import FeatureEdits
    from gateway_lite.features.tracing import Span
    from gateway_lite.features.translation import Translated
    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.large_requests import LargeRequests
    from gateway_lite.request.response import ResponseWriter, UpstreamResponse
    from gateway_lite.routing.replica_state import Outcome
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.upstream.connection import ResponseSink, UpstreamConnection
    from gateway_lite.upstream.handshake import ReplicaHandshake
    from gateway_lite.upstream.pool import PendingConnection
    from gateway_lite.wire.body_budget import BodyBudget
    from gateway_lite.wire.request_body import RequestFields
    from gateway_lite.wire.write_batching import WriteBatcher


class Request(msgspec.Struct, eq=False, gc=False):
    """One hot request.

    Attributes:
        method: GET or POST.
        path: path of the URL, without the query.
        headers: headers by lower-case name.
        limit: largest body in bytes; the check of the key may lower it.
        body: the complete body, once ``whole``.
        size: bytes of the body so far.
        whole: True once the body is complete.
        coding: the coding of a packed body; empty once the body is plain.
    """

    method: bytes
    path: str
    headers: Mapping[bytes, bytes]
    limit: int
    body: bytes = b""
    whole: bool = False
    size: int = 0
    coding: str = ""
    _parts: list[bytes] = []

    @property
    def too_large(self) -> bool:
        """Whether the body exceeds the limit, by size so far or announced length."""
        told = self.told
        return self.size > self.limit or (told is not None and told > self.limit)

    @property
    def fits(self) -> bool:
        """Whether the bytes so far are within the limit."""
        return self.size <= self.limit

    @property
    def kept(self) -> int:
        """Bytes in memory; 0 once the body is refused."""
        return self.size if self.fits else 0

    @property
    def waits(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends the body."""
        return b"expect" in self.headers and not self.whole

    @property
    def told(self) -> int | None:
        """The announced length of the body; None for a body in chunks."""
        told = self.headers.get(b"content-length")
        return None if told is None else int(told)

    def add(self, data: bytes) -> bool:
        """Add bytes to the body; return False beyond the limit."""
        self.size += len(data)
        if self.size <= self.limit:
            self._parts.append(data)
            return True
        self._parts.clear()
        return False

    def complete(self) -> None:
        """Complete the body."""
        self.whole = True
        parts = self._parts
        # Most bodies arrive in one read and need no copy.
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []

    def unpack(self) -> Iterator[None]:
        """Make a packed body plain; yields after each slice of about 1 ms, with the size so far.

        Raises:
            ApiError: the body cannot be unpacked, or is too large.
        """
        packed, self.body, self.size = self.body, b"", 0
        parts = []
        for piece in content_coding.pieces(packed, self.coding):
            self.size += len(piece)
            if not self.fits:
                raise errors.too_large(self.limit)
            parts.append(piece)
            yield
        self.body, self.coding = b"".join(parts), ""

    def drop(self) -> None:
        """Drop the body of a refused or answered request."""
        self.body = b""
        self._parts.clear()


class ClientConnection(ByteStream, Protocol):
    """The connection of a client.

    Attributes:
        handshake: the sidecar's part of the proof on the connection; None before, and at a gateway.
        server: address and port of the gateway's end; the path of a Unix socket and None.
    """

    handshake: ReplicaHandshake | None
    server: tuple[str, int | None] | None

    def answered(self, context: RequestContext) -> None:
        """Go on with the next request, or close the connection."""


class ReplicaLease(Protocol):
    """A lease of a slot at a replica, held until its release."""

    replica: Replica
    on_stall: Callable[[], None] | None

    def moved(self) -> None:
        """Record that bytes arrived."""

    def release(self, outcome: Outcome) -> None:
        """Release the lease; a second release does nothing."""


class QueueEntry(Protocol):
    """A queue entry for a slot."""

    def cancel(self) -> None:
        """Leave the queue."""


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An answer of the handler itself, without a replica.

    Attributes:
        status: HTTP status.
        lines: header lines.
        body: the complete body.
    """

    status: int
    lines: bytes
    body: bytes


class ThreadWork(msgspec.Struct, frozen=True, gc=False):
    """Work on a request outside of the event loop, before the request goes on.

    Attributes:
        run: returns the request's new body; raises ApiError; touches nothing of the loop's.
    """

    run: Callable[[], bytes]


class RequestHandler(Protocol):
    """A request handler; no method waits, and each method returns its decision.

    A handler writes fields of the context and calls no method of the exchange, so that context,
    handler and exchange form no circle.
    """

    in_flight: InFlight
    batcher: WriteBatcher
    settings: GatewaySettings
    bodies: BodyBudget
    turns: LargeRequests

    def check(self, context: RequestContext) -> None:
        """Refuse a request by its head, if possible; raises ApiError."""

    def inspect(self, context: RequestContext) -> Iterator[None]:
        """Unpack a body, and refuse a large one by its parts, slice by slice; raises ApiError."""

    def admit(self, context: RequestContext) -> Reply | ThreadWork | None:
        """Prepare a complete request, or return its answer or a thread's work; raises ApiError."""

    def resume(self, context: RequestContext, body: bytes) -> Reply | None:
        """Go on with the result of a thread's work; raises ApiError."""

    def in_thread(self, work: ThreadWork) -> asyncio.Future[bytes]:
        """Start work in a thread."""

    def place(self, context: RequestContext) -> ReplicaLease | None:
        """Return a lease at a replica, or None if all slots are taken; raises ApiError."""

    def wait(
        self, context: RequestContext, done: Callable[[ReplicaLease | Exception], None]
    ) -> QueueEntry:
        """Queue a request for a slot; raises ApiError."""

    def send(
        self, context: RequestContext, replica: Replica, sink: ResponseSink, *, fresh: bool
    ) -> UpstreamConnection | PendingConnection:
        """Send the request to a replica; the sink receives the answer."""

    def another(self, context: RequestContext, *, worked: bool, elsewhere: bool) -> bool:
        """Return whether one more attempt is allowed.

        Args:
            context: the request.
            worked: the failed replica may have worked on the request.
            elsewhere: only another replica makes sense.
        """

    def renew(self, context: RequestContext, replica: Replica, done: Callable[[], None]) -> None:
        """Read a refused secret again, then call ``done``; raises ApiError."""

    def refusal(self, error: ApiError, context: RequestContext) -> tuple[bytes, bytes]:
        """Return the header lines and the body of a gateway error."""

    def lines(self, context: RequestContext) -> bytes:
        """Return the handler's own header lines of an answer, for each attempt anew."""

    def finished(self, context: RequestContext) -> None:
        """Record the end of a request."""


def refusal(error: ApiError, context: RequestContext) -> tuple[bytes, bytes]:
    """Return the header lines and the body of an error, in the form of the path's API."""
    path, name = context.record.path, context.record.name.encode()
    headers = [pair for pair in error.headers if pair[0] != b"connection"]
    told = [(b"content-type", response_head.JSON), *headers, (b"x-request-id", name)]
    lines = response_head.lines(told) + error_forms.request_id(path, name)
    return lines, error_forms.body(error, path)


class HeldResources(msgspec.Struct, eq=False):
    """The resources of a request, and their release.

    Attributes:
        lease: the lease at a replica.
        link: the upstream connection.
        waiting: the queue entry.
    """

    lease: ReplicaLease | None = None
    link: UpstreamConnection | PendingConnection | None = None
    waiting: QueueEntry | None = None

    def abort(self) -> None:
        """Leave the queue and close the connection, by which the engine cancels its work."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.link is not None:
            self.link.abort()

    def pause(self) -> None:
        """Stop reading from the replica."""
        if self.link is not None:
            self.link.pause()

    def resume(self) -> None:
        """Read from the replica again."""
        if self.link is not None:
            self.link.resume()

    def release(self, outcome: Outcome) -> None:
        """Release the lease."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(outcome)


class _Nothing:
    """A stand-in for the event by which uvicorn wakes a task; an exchange has no task."""

    def set(self) -> None:
        """Do nothing."""


class RequestContext(msgspec.Struct, eq=False):
    """The state of one request while it is served.

    The attributes ``response_complete``, ``disconnected``, ``keep_alive`` and ``message_event`` are
    those that uvicorn's protocol uses of a cycle.

    Attributes:
        client: the client's connection.
        handler: the request handler.
        request: the request.
        record: the request's record for log and metrics.
        writer: the writer of the answer.
        path: path of the request to replicas.
        ask: decoded fields of the body, once admitted.
        models: models to try in order; ``turn`` is the index of the present model.
        substitute: model in the request to replicas if the client named another, else empty.
        tried: keys of replicas that failed the request.
        refused: the error of a request that was refused before its turn came.
        charged: bytes of the body that the budget counts.
        holder: key under which the budget counts them.
        replayed: True once a request was sent again although a replica may have worked on it.
        renewed: True once a replica's secret was read again for the request.
        body: body of the request to replicas.
        prompt: estimated tokens of the prompt.
        answers: number of answers that the request asks for.
        worked: True while a replica works on the request, or once it has without refusing it.
        sent_at: clock value at which the request was sent to the replica.
        translated: translation of a request in another API's form, or None.
        edits: edits of the answer, or None.
        cache: "hit" or "miss" of the response cache; empty if the answer is not cached.
        held: resources held by the request.
    """

    client: ClientConnection
    handler: RequestHandler
    request: Request
    record: RequestRecord
    writer: ResponseWriter
    path: str
    message_event: ClassVar[_Nothing] = _Nothing()
    opened: bool = False
    refused: ApiError | None = None
    charged: int = 0
    holder: str = ""
    replayed: bool = False
    renewed: bool = False
    response_complete: bool = False
    disconnected: bool = False
    body: bytes = b""
    principal: Any = None
    ask: RequestFields | None = None
    reservation: Any = None
    work: Any = None
    prompt: int = 0
    answers: int = 1
    worked: bool = False
    sent_at: float = 0.0
    translated: Translated | None = None
    models: tuple[str, ...] = ()
    turn: int = 0
    substitute: str = ""
    tried: list[str] = []
    edits: FeatureEdits | None = None
    cache: str = ""
    span: Span | None = None
    held: HeldResources = msgspec.field(default_factory=HeldResources)
    _answer: UpstreamResponse | None = None
    _checks: Iterator[None] | None = None
    _waited_at: float = 0.0

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may serve a further request afterwards."""
        return self.writer.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self.writer.keep_alive = value
