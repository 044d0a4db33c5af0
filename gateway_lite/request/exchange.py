"""A request's way to a replica and back, without a task: every step is a callback.

No byte is sent to the client before the first byte of the answer has arrived; until then the
request may go to another replica, afterwards never.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.request.context import RequestContext, ThreadWork
from gateway_lite.request.response import ResponseWriter, response_of
from gateway_lite.telemetry.request_record import RequestRecord, request_id
from gateway_lite.upstream.connection import Fault
from gateway_lite.wire import response_head
from gateway_lite.wire.body_budget import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.request.context import (
        ClientConnection,
        ReplicaLease,
        Reply,
        Request,
        RequestHandler,
    )
    from gateway_lite.routing.replica_state import Outcome
    from gateway_lite.upstream.connection import UpstreamConnection

log = logging.getLogger(__name__)
clock = time.perf_counter
STEP_S = 0.005
"""Seconds of the check of a body before its next turn."""
LONG_STEP = 256 * 1024
"""Bytes of a body from which its admission, 30 ms at 8 MiB, is a step of its own."""
LAST_BYTES_S = 1.0
"""Seconds for a replica to end an answer after the client has got the terminator."""
FAILED = 400
UNAUTHORIZED = 401
UNAVAILABLE = 503
NOT_REACHED = frozenset({Fault.UNREACHABLE, Fault.UNPROVED})
"""Faults of connections over which no request was sent."""
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Statuses of a replica's answer after which another replica is tried."""


class Exchange(RequestContext, eq=False):
    """A request during service; takes the place of a cycle in uvicorn's pipeline."""

    # Arrival of the request.

    def open(self) -> None:
        """Begin the request, once all earlier requests of the connection are answered."""
        self.opened = True
        self.handler.in_flight.enter(self)
        try:
            self.handler.check(self)
            if self.refused is not None:
                raise self.refused
        except errors.ApiError as error:
            if self.request.waits:
                self.keep_alive = False
            self.fail(error)
            return
        if self.request.whole:
            self.admit()
        elif self.request.waits:
            self.writer.go_on()

    def receive(self, data: bytes) -> None:
        """Add a piece of the body, and refuse a body that is too large or finds no memory."""
        request = self.request
        if self.refused is not None:
            return
        fits = request.add(data)
        # A body behind an unanswered request counts from its first byte: one connection may have
        # AHEAD of them.
        if (request.size > SMALL or not self.opened) and not self._charge():
            self._decline(errors.busy())
        elif self.opened and not fits:
            self.fail(errors.too_large(request.limit))

    def _charge(self) -> bool:
        """Count the bytes of the body; return False if its key has no room for them."""
        if not self.charged and self.principal is not None:
            self.holder = getattr(self.principal, "id", "")
        more = self.request.kept - self.charged
        if more <= 0:
            return True
        if not self.handler.bodies.take(self.holder, self, more):
            return False
        self.charged += more
        return True

    def evict(self) -> None:
        """End the request, as its memory is needed for another key's."""
        self.charged = 0
        self._decline(errors.busy())

    def _decline(self, error: errors.ApiError) -> None:
        if self.opened:
            self.held.abort()
            self.fail(error)
        else:
            self.drop()
            self.refused = error

    def drop(self) -> None:
        """Drop the body, and return its bytes to the budget."""
        self.request.drop()
        if self.charged:
            self.charged = 0
            self.handler.bodies.release(self.holder, self)

    def admit(self) -> None:
        """Admit the complete request, a large or packed one in its turn."""
        if self.request.size <= SMALL and not self.request.coding:
            self._admit()
        else:
            self._take_turn(self._inspect)

    def _take_turn(self, step: Callable[[], asyncio.Future[bytes] | None]) -> None:
        self.handler.turns.put(getattr(self.principal, "id", ""), step)

    def _inspect(self) -> asyncio.Future[bytes] | None:
        """Unpack a body, and check a large one for costly parts, then admit the request."""
        if self.response_complete:
            return None
        if self._checks is None:
            self._checks = self.handler.inspect(self)
        until = clock() + STEP_S
        try:
            for _ in self._checks:
                if self.request.size > SMALL and not self._charge():
                    raise errors.busy()
                if clock() > until:
                    self._take_turn(self._inspect)
                    return None
        except errors.ApiError as error:
            self.fail(error)
            return None
        if self.request.size <= LONG_STEP:
            return self._admit()
        self._take_turn(self._admit)
        return None

    def _admit(self) -> asyncio.Future[bytes] | None:
        """Prepare the request, and choose a replica; returns the work in a thread, if any."""
        if self.response_complete:
            return None
        found = self._decide(lambda: self.handler.admit(self))
        if found is None:
            return None
        try:
            work = self.handler.in_thread(found)
        except RuntimeError:  # the machine gives this user no further thread
            log.exception("request %s failed", self.record.name)
            self.fail(errors.internal())
            return None
        work.add_done_callback(self._worked)
        return work

    def _worked(self, work: asyncio.Future[bytes]) -> None:
        """Go on after the work in a thread."""
        if self.response_complete:  # the client left, and nobody asks how it went
            _ = work.cancelled() or work.exception()
        else:
            self._decide(lambda: self.handler.resume(self, work.result()))

    def _decide(self, step: Callable[[], Reply | ThreadWork | None]) -> ThreadWork | None:
        """Take a step of the handler: choose a replica, answer, or return work for a thread."""
        try:
            reply = step()
            if reply is None:
                self._place()
            elif isinstance(reply, ThreadWork):
                return reply
            else:
                self._answer_with(reply)
        except errors.ApiError as error:
            self.fail(error)
        except Exception:
            log.exception("request %s failed", self.record.name)
            self.fail(errors.internal())
        return None

    # Choice of a replica.

    def _place(self) -> None:
        lease = self.handler.place(self)
        if lease is not None:
            self.send(lease)
            return
        self._waited_at = clock()
        self.held.waiting = self.handler.wait(self, self._placed)

    def _placed(self, found: ReplicaLease | Exception) -> None:
        self.held.waiting = None
        self.record.queue_s += clock() - self._waited_at
        if isinstance(found, errors.ApiError):
            self.fail(found)
        elif isinstance(found, Exception):
            self.again()
        else:
            self.send(found)

    def again(self) -> None:
        """Make one more attempt, beginning with the choice of a replica."""
        if self.response_complete:
            return
        try:
            self._place()
        except errors.ApiError as error:
            self.fail(error)

    def send(self, lease: ReplicaLease, *, fresh: bool = False) -> None:
        """Send the request to a replica.

        Args:
            lease: lease at the replica.
            fresh: use a new connection, as a kept connection was closed.
        """
        self.held.lease = lease
        lease.on_stall = self.stalled
        record = self.record
        # A fresh connection repeats the attempt: the kept one closed before a byte of an answer.
        record.attempts += not fresh
        record.replica = lease.replica.name
        self.sent_at = clock()
        self.worked = True
        self.held.link = self.handler.send(self, lease.replica, self, fresh=fresh)

    # Arrival of the answer.

    def on_complete(self, link: UpstreamConnection, body: bytes) -> None:
        """Handle an answer with head and body in a single read, as most unary answers are."""
        kind = link.headers.get(b"content-type", response_head.JSON)
        plain = self.edits is None and link.status < FAILED and kind.startswith(response_head.JSON)
        if not plain or len(body) > self.handler.settings.body_bytes:
            self.on_head(link)
            self.on_body(body)
            self.on_end()
            return
        record = self.record
        record.overhead_s = max(0.0, self.sent_at - record.began - record.queue_s)
        lines = response_head.passed_back(link.headers, kind) + self.handler.lines(self)
        record.whole(body)
        self.writer.whole(link.status, lines, body)
        self.finish("ok")

    def on_head(self, link: UpstreamConnection) -> None:
        """Decide by the head whether the client gets the answer or another attempt is made."""
        status = link.status
        if status >= FAILED:
            self.worked = False
            if self._retry_refused(link, status):
                return
        record = self.record
        record.overhead_s = max(0.0, self.sent_at - record.began - record.queue_s)
        limit = self.handler.settings.body_bytes
        lines = self.handler.lines(self)
        self._answer = response_of(link, self.writer, record, self.edits, lines=lines, limit=limit)

    def on_body(self, data: bytes) -> None:
        """Pass on bytes of the answer's body."""
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
            self.on_error(Fault.TOO_LARGE, "a whole answer")
        elif self.body and self.writer.begun:
            self._forget()

    def _forget(self) -> None:
        """Drop the data for another attempt, once no further attempt is possible."""
        self.drop()
        self.body = b""
        self.ask = None

    def on_end(self) -> None:
        """Send the rest of the answer."""
        if self._answer is None:
            return
        try:
            self._answer.end()
        except errors.ApiError as error:
            self.fail(error)
        else:
            self.finish("ok")

    def _answer_with(self, reply: Reply) -> None:
        """Answer at once, without a replica."""
        self.writer.whole(reply.status, reply.lines, reply.body)
        self.record.complete = True
        self.finish("ok")

    # Failures.

    def on_error(self, fault: Fault, detail: str) -> None:
        """Retry a request if safe, else answer with an error.

        Args:
            fault: kind of the upstream failure.
            detail: further detail for the log.
        """
        lease, writer = self.held.lease, self.writer
        if lease is None or self.response_complete:
            return
        if fault is Fault.STALE:
            # The engine closed the kept connection before a byte of an answer. A new connection
            # needs no other replica, and takes nothing from the retry budget.
            self.send(lease, fresh=True)
            return
        name = lease.replica.name
        log.warning("request %s: %s %s: %s", self.record.name, name, fault.value, detail)
        if fault is Fault.UNPROVED and not self.renewed:
            # The replica may have started again, with a new secret; nothing was sent so far.
            self._renew(lease, "left")
            return
        if writer.said:
            # The client has the complete answer, so a late failure of the connection is none of the
            # request.
            self.finish("ok")
        elif writer.begun:
            self.fail(errors.upstream_error(f"the replica {name} {fault.value} in mid-stream"))
        else:
            self.tried.append(lease.replica.key)
            self.held.release("unreachable" if fault in NOT_REACHED else "failed")
            self._once_more(name, fault)

    def _once_more(self, name: str, fault: Fault) -> None:
        worked = fault in (Fault.BROKEN, Fault.STUCK)
        self.worked = fault not in (Fault.BROKEN, Fault.UNREACHABLE)
        final = fault in (Fault.SILENT, Fault.TOO_LARGE)
        elsewhere = fault is not Fault.BROKEN
        if final or not self.handler.another(self, worked=worked, elsewhere=elsewhere):
            self.fail(_failure_error(name, fault))
        else:
            self.again()

    def _retry_refused(self, link: UpstreamConnection, status: int) -> bool:
        """Retry after an error answer if useful; return whether the client does not get the answer.

        Args:
            link: the upstream connection with the answer.
            status: status of the answer, 400 or above.
        """
        lease = self.held.lease
        if lease is None:
            return True
        if status == UNAUTHORIZED:
            link.abort()
            self._renew(lease, "ok")
            return True
        if status not in ELSEWHERE:
            return False
        log.warning("request %s: %s answers %d", self.record.name, lease.replica.name, status)
        if lease.replica.key not in self.tried:
            self.tried.append(lease.replica.key)
        if not self.handler.another(self, worked=status != UNAVAILABLE, elsewhere=True):
            return False
        link.abort()
        self.held.release("failed")
        self.again()
        return True

    def _renew(self, lease: ReplicaLease, outcome: Outcome) -> None:
        """Make another attempt after the replica's record and secret were read again."""
        self.held.release(outcome)
        try:
            self.handler.renew(self, lease.replica, self.again)
        except errors.ApiError as error:
            self.fail(error)

    def stalled(self) -> None:
        """Leave a stalled replica; a begun answer ends with an error."""
        self.held.abort()
        self.on_error(Fault.STUCK, "nothing moves")

    def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, end a begun event stream with one, or cut off another answer."""
        if self.response_complete:
            return
        self.record.failed(error.status, error.code)
        self.record.limited = error.limit
        if not self.writer.begun:
            self._refuse(error)
        elif not self.writer.said:
            self.writer.spoil(error)
        self.finish("failed")

    def _refuse(self, error: errors.ApiError) -> None:
        if error.closes:
            self.keep_alive = False
        lines, body = self.handler.refusal(error, self)
        self.writer.whole(error.status, lines, body)

    def expire(self) -> None:
        """End the request, as the server must end."""
        self.held.abort()
        self.fail(errors.draining())

    def revoke(self) -> None:
        """End the request, as its key is no longer in force."""
        self.held.abort()
        self.fail(errors.unauthorized())

    def left(self) -> None:
        """End the request, as the client has left."""
        self.disconnected = True
        if self.response_complete or not self.opened:
            return
        if self.writer.said:  # it has all it wanted; the replica's last bytes are on their way
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
        """Stop reading from the replica while the client does not read."""
        if self.writer.begun:
            self.held.pause()

    def resume(self) -> None:
        """Read from the replica again."""
        self.held.resume()

    def finish(self, outcome: Outcome) -> None:
        """Release all held resources, and let the next request of the connection begin."""
        if self.response_complete:
            return
        # Set first: releasing the lease runs callbacks of queued requests, and no callback may
        # finish this request a second time.
        self.response_complete = True
        self._forget()
        self.held.release(outcome)
        self.held.link = None
        self.handler.in_flight.leave(self)
        self.handler.finished(self)
        # Last: the connection may now close, or begin its next request.
        self.client.answered(self)


def exchange_of(
    client: ClientConnection,
    handler: RequestHandler,
    request: Request,
    *,
    keep_alive: bool,
    plain: bool,
) -> Exchange:
    """Return the exchange of a request, not yet begun.

    Args:
        client: the client's connection.
        handler: the request handler.
        request: the request.
        keep_alive: the connection may serve a further request afterwards.
        plain: the client speaks HTTP/1.0, without chunks.
    """
    record = RequestRecord(request_id(request.headers.get(b"x-request-id")), request.path)
    writer = ResponseWriter(client, record, keep_alive=keep_alive, plain=plain)
    return Exchange(client, handler, request, record, writer, request.path)


def _failure_error(name: str, fault: Fault) -> errors.ApiError:
    """Return the error for a request that failed at a replica."""
    message = f"the replica {name} {fault.value}"
    if fault in (Fault.SILENT, Fault.STUCK):
        return errors.upstream_timeout(message)
    if fault in NOT_REACHED:
        return errors.upstream_unreachable(message)
    return errors.upstream_error(message)
