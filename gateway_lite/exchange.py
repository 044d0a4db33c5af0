"""One request on its way to a replica and back, without a task: every step is a callback.

Nothing is sent to the client before the first byte of the answer is here; until then another
replica may be asked, after it never.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, ClassVar

import msgspec

from gateway_lite import errors, reply
from gateway_lite.answer import answer_of
from gateway_lite.desk import fault_error
from gateway_lite.held import Held
from gateway_lite.link import Fault
from gateway_lite.outlet import Outlet
from gateway_lite.record import Record, request_id

if TYPE_CHECKING:
    from typing import Any

    from gateway_lite.answer import Answer
    from gateway_lite.ask import Ask
    from gateway_lite.desk import Client, Desk, Place
    from gateway_lite.extras import Extra
    from gateway_lite.link import Link
    from gateway_lite.place import Outcome
    from gateway_lite.replicas import Replica
    from gateway_lite.request import Request
    from gateway_lite.tracing import Span

log = logging.getLogger(__name__)
clock = time.perf_counter

LAST_BYTES_S = 1.0
"""Seconds that a replica has to end an answer of which the client has seen the last word."""
UNAUTHORIZED = 401
UNAVAILABLE = 503
FAILED = 400
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Answers of a replica after which another one is asked."""


class _Nothing:
    """Stands where uvicorn has an event that wakes a task; here is no task."""

    def set(self) -> None:
        """Wake nobody."""


class Exchange(msgspec.Struct, eq=False):
    """One request while it is served.

    It takes the place of uvicorn's cycle in the protocol's pipeline, and has the attributes that
    the protocol uses of one: ``response_complete``, ``disconnected``, ``keep_alive`` and
    ``message_event``.

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
    _held: Held = msgspec.field(default_factory=Held)
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

    # The request comes in.

    def open(self) -> None:
        """Begin: it is first in line on its connection."""
        self.opened = True
        self.desk.gate.enter(self)
        try:
            self.desk.check(self)
        except errors.ApiError as error:
            if self.request.waits:
                self.keep_alive = False
            self.fail(error)
            return
        if self.request.whole:
            self.admit()
        elif self.request.waits:
            self.outlet.go_on()

    def admit(self) -> None:
        """Go on: it is complete."""
        try:
            self.desk.admit(self)
            if not self.response_complete:
                self._place()
        except errors.ApiError as error:
            self.fail(error)
        except Exception:
            log.exception("request %s failed", self.record.name)
            self.fail(errors.internal())

    # It finds a replica.

    def _place(self) -> None:
        lease = self.desk.place(self)
        if lease is not None:
            self._send(lease)
            return
        self._waited_at = clock()
        self._held.waiting = self.desk.wait(self, self._placed)

    def _placed(self, found: Place | Exception) -> None:
        self._held.waiting = None
        self.record.queue_s += clock() - self._waited_at
        if isinstance(found, errors.ApiError):
            self.fail(found)
        elif isinstance(found, Exception):
            self.again()
        else:
            self._send(found)

    def again(self) -> None:
        """Make one more attempt, from the choice of a replica on."""
        if self.response_complete:
            return
        try:
            self._place()
        except errors.ApiError as error:
            self.fail(error)

    def _send(self, lease: Place, *, fresh: bool = False) -> None:
        self._held.lease = lease
        lease.on_stall = self.stalled
        record = self.record
        record.attempts += not fresh
        record.replica = lease.replica.name
        self._sent_at = clock()
        self._held.link = self.desk.send(self, lease.replica, fresh=fresh)

    # The answer comes.

    def whole(self, link: Link, body: bytes) -> None:
        """Take an answer that came at once: most that are no stream do."""
        kind = link.headers.get(b"content-type", reply.JSON)
        plain = self.extra is None and link.status < FAILED and kind.startswith(reply.JSON)
        if not plain or len(body) > self.desk.settings.body_bytes:
            self.answered(link)
            self.came(body)
            self.ended()
            return
        record = self.record
        record.overhead_s = max(0.0, self._sent_at - record.began - record.queue_s)
        lines = reply.passed_back(link.headers, kind) + self.desk.lines(self)
        record.whole(body)
        self.outlet.whole(link.status, lines, body)
        self._finish("ok")

    def answered(self, link: Link) -> None:
        """Judge by the head whether the client gets this answer."""
        status = link.status
        if status >= FAILED and self._rejected(link, status):
            return
        record = self.record
        record.overhead_s = max(0.0, self._sent_at - record.began - record.queue_s)
        limit = self.desk.settings.body_bytes
        lines = self.desk.lines(self)
        self._answer = answer_of(link, self.outlet, record, self.extra, lines=lines, limit=limit)

    def _rejected(self, link: Link, status: int) -> bool:
        """Tell whether this answer is no answer, and do what comes then."""
        lease = self._held.lease
        if lease is None:
            return True
        if status == UNAUTHORIZED:
            link.abort()
            self._held.release("ok")
            self._renew(lease.replica)
            return True
        if status not in ELSEWHERE:
            return False
        log.warning("request %s: %s answers %d", self.record.name, lease.replica.name, status)
        if lease.replica.key not in self.tried:
            self.tried.append(lease.replica.key)
        if not self.desk.another(self, worked=status != UNAVAILABLE, elsewhere=True):
            return False
        link.abort()
        self._held.release("failed")
        self.again()
        return True

    def _renew(self, replica: Replica) -> None:
        try:
            self.desk.renew(self, replica)
        except errors.ApiError as error:
            self.fail(error)

    def came(self, data: bytes) -> None:
        """Take bytes of the answer's body."""
        lease, answer = self._held.lease, self._answer
        if lease is None or answer is None:
            return
        lease.moved()
        try:
            fits = answer.take(data)
        except errors.ApiError as error:
            self._held.abort()
            self.fail(error)
            return
        if not fits:
            self._held.abort()
            self.broke(Fault.TOO_LARGE, "a whole answer")

    def ended(self) -> None:
        """Send what is left of the answer."""
        if self._answer is None:
            return
        try:
            self._answer.end()
        except errors.ApiError as error:
            self.fail(error)
        else:
            self._finish("ok")

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Answer at once, without a replica.

        Args:
            status: HTTP status.
            lines: header lines.
            body: all of it.
        """
        self.outlet.whole(status, lines, body)
        self.record.complete = True
        self._finish("ok")

    # Something goes wrong.

    def broke(self, fault: Fault, detail: str) -> None:
        """Try again where that is safe, else say what happened."""
        lease = self._held.lease
        if lease is None or self.response_complete:
            return
        if fault is Fault.STALE:
            self._send(lease, fresh=True)
            return
        name = lease.replica.name
        log.warning("request %s: %s %s: %s", self.record.name, name, fault.value, detail)
        if self.outlet.said:
            self._finish("ok")
            return
        if self.outlet.begun:
            self.fail(errors.upstream_error(f"the replica {name} {fault.value} in mid-stream"))
            return
        self.tried.append(lease.replica.key)
        self._held.release("unreachable" if fault is Fault.UNREACHABLE else "failed")
        worked = fault in (Fault.BROKEN, Fault.STUCK)
        final = fault in (Fault.SILENT, Fault.TOO_LARGE)
        elsewhere = fault is not Fault.BROKEN
        if final or not self.desk.another(self, worked=worked, elsewhere=elsewhere):
            self.fail(fault_error(name, fault))
        else:
            self.again()

    def stalled(self) -> None:
        """Ask another replica, as this one does not move; an answer that has begun ends there."""
        self._held.abort()
        self.broke(Fault.STUCK, "nothing moves")

    def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, or end an event stream with one; cut anything else short."""
        if self.response_complete:
            return
        self.record.failed(error.status, error.code)
        self.record.limited = error.limit
        if not self.outlet.begun:
            self._refuse(error)
        elif not self.outlet.said:
            self.outlet.spoil(error)
        self._finish("failed")

    def _refuse(self, error: errors.ApiError) -> None:
        if error.closes:
            self.keep_alive = False
        lines, body = self.desk.refusal(error, self)
        self.outlet.whole(error.status, lines, body)

    def expire(self) -> None:
        """End, as the server must."""
        self._held.abort()
        self.fail(errors.draining())

    def left(self) -> None:
        """End, as the client has left."""
        self.disconnected = True
        if self.response_complete or not self.opened:
            return
        if self.outlet.said:  # it has all it wanted; the replica's last bytes are on their way
            asyncio.get_running_loop().call_later(LAST_BYTES_S, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        if self.response_complete:
            return
        self._held.abort()
        self.record.left()
        self._finish("left")

    def pause(self) -> None:
        """Let the replica wait: the client does not read."""
        if self.outlet.begun:
            self._held.pause()

    def resume(self) -> None:
        """Let the replica go on."""
        self._held.resume()

    def _finish(self, outcome: Outcome) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        self.request.drop()
        self.body = b""
        self._held.release(outcome)
        self._held.link = None
        self.desk.gate.leave(self)
        self.desk.finished(self)
        self.client.answered(self)


def exchange_of(
    client: Client, desk: Desk, request: Request, *, keep_alive: bool, plain: bool
) -> Exchange:
    """Return a request's exchange, not yet begun.

    Args:
        client: the connection it came on.
        desk: decides on it.
        request: what came.
        keep_alive: the connection may serve another request after it.
        plain: the client knows no chunks (HTTP/1.0).
    """
    record = Record(request_id(request.headers.get(b"x-request-id")), request.path)
    outlet = Outlet(client, record, keep_alive=keep_alive, plain=plain)
    return Exchange(client, desk, request, record, outlet, request.path)
