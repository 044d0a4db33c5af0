"""The state of a request during service."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from gateway_lite.request.held import Held

if TYPE_CHECKING:
    from typing import Any

    from gateway_lite.features.pipeline import Extra
    from gateway_lite.features.tracing import Span
    from gateway_lite.request.desk import Client, Desk
    from gateway_lite.request.outlet import Outlet
    from gateway_lite.request.request import Request
    from gateway_lite.request.response import Answer
    from gateway_lite.telemetry.request_record import Record
    from gateway_lite.wire.request_body import Ask


class _Nothing:
    """A stand-in for the event by which uvicorn wakes a task; an exchange has no task."""

    def set(self) -> None:
        """Do nothing."""


class Progress(msgspec.Struct, eq=False):
    """The state of one request while it is served.

    The attributes ``response_complete``, ``disconnected``, ``keep_alive`` and ``message_event`` are
    those that uvicorn's protocol uses of a cycle.

    Attributes:
        client: the client's connection.
        desk: the request handler.
        request: the request.
        record: the request's record for log and metrics.
        outlet: the writer of the answer.
        path: path of the request to replicas.
        ask: decoded fields of the body, once admitted.
        models: models to try in order; ``turn`` is the index of the present model.
        tried: keys of replicas that failed the request.
        replayed: True once a request was sent again although a replica may have worked on it.
        renewed: True once a replica's secret was read again for the request.
        body: body of the request to replicas.
        extra: edits of the answer, or None.
        held: resources held by the request.
        notes: further header lines of the answer.
    """

    client: Client
    desk: Desk
    request: Request
    record: Record
    outlet: Outlet
    path: str
    message_event: ClassVar[_Nothing] = _Nothing()
    opened: bool = False
    replayed: bool = False
    renewed: bool = False
    response_complete: bool = False
    disconnected: bool = False
    body: bytes = b""
    notes: bytes = b""
    principal: Any = None
    ask: Ask | None = None
    grant: Any = None
    work: Any = None
    models: tuple[str, ...] = ()
    turn: int = 0
    tried: list[str] = []
    extra: Extra | None = None
    span: Span | None = None
    held: Held = msgspec.field(default_factory=Held)
    _answer: Answer | None = None
    _sent_at: float = 0.0
    _waited_at: float = 0.0

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may serve a further request afterwards."""
        return self.outlet.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self.outlet.keep_alive = value
