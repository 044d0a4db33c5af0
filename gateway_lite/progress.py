"""How far a request is, and what is known of it by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from gateway_lite.held import Held

if TYPE_CHECKING:
    from typing import Any

    from gateway_lite.answer import Answer
    from gateway_lite.ask import Ask
    from gateway_lite.desk import Client, Desk
    from gateway_lite.extras import Extra
    from gateway_lite.outlet import Outlet
    from gateway_lite.record import Record
    from gateway_lite.request import Request
    from gateway_lite.tracing import Span


class _Nothing:
    """Stands where uvicorn has an event that wakes a task; here is no task."""

    def set(self) -> None:
        """Wake nobody."""


class Progress(msgspec.Struct, eq=False):
    """One request while it is served.

    It has the attributes that uvicorn's protocol uses of a cycle: ``response_complete``,
    ``disconnected``, ``keep_alive`` and ``message_event``.

    Attributes:
        client: the connection it came on.
        desk: decides on it.
        request: what came.
        record: what is noted of it.
        outlet: writes the answer.
        path: what replicas are asked for.
        ask: what the body asks for, once the desk has read it.
        models: whom the desk would ask for an answer, in order; ``turn`` is the present one.
        tried: keys of replicas that failed it.
        replayed: a replica may have worked on it already; that happens once at most.
        renewed: a replica's secret was read again for it.
        body: what replicas get.
        extra: what is done to the answer, where anything is.
        held: what it holds of others.
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
        """Whether the connection may serve another request after this."""
        return self.outlet.keep_alive

    @keep_alive.setter
    def keep_alive(self, value: bool) -> None:
        self.outlet.keep_alive = value
