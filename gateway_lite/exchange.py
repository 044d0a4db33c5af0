"""One request on its way to a replica and back, without a task: every step is a callback.

Nothing is sent to the client before the first byte of the answer is here; until then another
replica may be asked, after it never.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from gateway_lite import errors, failover, reply
from gateway_lite.answer import answer_of
from gateway_lite.link import Fault
from gateway_lite.outlet import Outlet
from gateway_lite.progress import Progress
from gateway_lite.record import Record, request_id

if TYPE_CHECKING:
    from gateway_lite.desk import Client, Desk, Place
    from gateway_lite.link import Link
    from gateway_lite.place import Outcome
    from gateway_lite.request import Request

log = logging.getLogger(__name__)
clock = time.perf_counter

LAST_BYTES_S = 1.0
"""Seconds that a replica has to end an answer of which the client has seen the last word."""
FAILED = 400


class Exchange(Progress, eq=False):
    """One request while it is served; it takes the place of a cycle in uvicorn's pipeline."""

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
            self.send(lease)
            return
        self._waited_at = clock()
        self.held.waiting = self.desk.wait(self, self._placed)

    def _placed(self, found: Place | Exception) -> None:
        self.held.waiting = None
        self.record.queue_s += clock() - self._waited_at
        if isinstance(found, errors.ApiError):
            self.fail(found)
        elif isinstance(found, Exception):
            self.again()
        else:
            self.send(found)

    def again(self) -> None:
        """Make one more attempt, from the choice of a replica on."""
        if self.response_complete:
            return
        try:
            self._place()
        except errors.ApiError as error:
            self.fail(error)

    def send(self, lease: Place, *, fresh: bool = False) -> None:
        """Send it to a replica.

        Args:
            lease: the place there.
            fresh: on a new connection, as a kept one was closed.
        """
        self.held.lease = lease
        lease.on_stall = self.stalled
        record = self.record
        record.attempts += not fresh
        record.replica = lease.replica.name
        self._sent_at = clock()
        self.held.link = self.desk.send(self, lease.replica, fresh=fresh)

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
        self.finish("ok")

    def answered(self, link: Link) -> None:
        """Judge by the head whether the client gets this answer."""
        status = link.status
        if status >= FAILED and failover.refused(self, link, status):
            return
        record = self.record
        record.overhead_s = max(0.0, self._sent_at - record.began - record.queue_s)
        limit = self.desk.settings.body_bytes
        lines = self.desk.lines(self)
        self._answer = answer_of(link, self.outlet, record, self.extra, lines=lines, limit=limit)

    def came(self, data: bytes) -> None:
        """Take bytes of the answer's body."""
        lease, answer = self.held.lease, self._answer
        if lease is None or answer is None:
            return
        lease.moved()
        try:
            fits = answer.take(data)
        except errors.ApiError as error:
            self.held.abort()
            self.fail(error)
            return
        if not fits:
            self.held.abort()
            self.broke(Fault.TOO_LARGE, "a whole answer")
        elif self.body and self.outlet.begun:
            self._forget()

    def _forget(self) -> None:
        """Let go of what only another attempt would need, which there will not be."""
        self.request.drop()
        self.body = b""
        self.ask = None

    def ended(self) -> None:
        """Send what is left of the answer."""
        if self._answer is None:
            return
        try:
            self._answer.end()
        except errors.ApiError as error:
            self.fail(error)
        else:
            self.finish("ok")

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Answer at once, without a replica.

        Args:
            status: HTTP status.
            lines: header lines.
            body: all of it.
        """
        self.outlet.whole(status, lines, body)
        self.record.complete = True
        self.finish("ok")

    # Something goes wrong.

    def broke(self, fault: Fault, detail: str) -> None:
        """Try again where that is safe, else say what happened."""
        failover.broke(self, fault, detail)

    def stalled(self) -> None:
        """Ask another replica, as this one does not move; an answer that has begun ends there."""
        self.held.abort()
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
        self.finish("failed")

    def _refuse(self, error: errors.ApiError) -> None:
        if error.closes:
            self.keep_alive = False
        lines, body = self.desk.refusal(error, self)
        self.outlet.whole(error.status, lines, body)

    def expire(self) -> None:
        """End, as the server must."""
        self.held.abort()
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
        self.held.abort()
        self.record.left()
        self.finish("left")

    def pause(self) -> None:
        """Let the replica wait: the client does not read."""
        if self.outlet.begun:
            self.held.pause()

    def resume(self) -> None:
        """Let the replica go on."""
        self.held.resume()

    def finish(self, outcome: Outcome) -> None:
        """Give back what it holds, and let the next request on its connection begin."""
        if self.response_complete:
            return
        self.response_complete = True
        self._forget()
        self.held.release(outcome)
        self.held.link = None
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
