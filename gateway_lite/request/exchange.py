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
from gateway_lite.request.context import RequestContext
from gateway_lite.request.response import ResponseWriter, response_of
from gateway_lite.telemetry.request_record import RequestRecord, request_id
from gateway_lite.upstream.connection import Fault
from gateway_lite.wire import response_head

if TYPE_CHECKING:
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
LAST_BYTES_S = 1.0
"""Seconds for a replica to end an answer after the client has got the terminator."""
FAILED = 400
UNAUTHORIZED = 401
UNAVAILABLE = 503
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
        except errors.ApiError as error:
            if self.request.waits:
                self.keep_alive = False
            self.fail(error)
            return
        if self.request.whole:
            self.admit()
        elif self.request.waits:
            self.writer.go_on()

    def admit(self) -> None:
        """Admit the complete request, and choose a replica."""
        try:
            reply = self.handler.admit(self)
            if reply is None:
                self._place()
            else:
                self._answer_with(reply)
        except errors.ApiError as error:
            self.fail(error)
        except Exception:
            log.exception("request %s failed", self.record.name)
            self.fail(errors.internal())

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
        self._sent_at = clock()
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
        record.overhead_s = max(0.0, self._sent_at - record.began - record.queue_s)
        lines = response_head.passed_back(link.headers, kind) + self.handler.lines(self)
        record.whole(body)
        self.writer.whole(link.status, lines, body)
        self.finish("ok")

    def on_head(self, link: UpstreamConnection) -> None:
        """Decide by the head whether the client gets the answer or another attempt is made."""
        status = link.status
        if status >= FAILED and self._retry_refused(link, status):
            return
        record = self.record
        record.overhead_s = max(0.0, self._sent_at - record.began - record.queue_s)
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
        self.request.drop()
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
        if writer.said:
            # The client has the complete answer, so a late failure of the connection is none of the
            # request.
            self.finish("ok")
        elif writer.begun:
            self.fail(errors.upstream_error(f"the replica {name} {fault.value} in mid-stream"))
        else:
            self.tried.append(lease.replica.key)
            self.held.release("unreachable" if fault is Fault.UNREACHABLE else "failed")
            self._once_more(name, fault)

    def _once_more(self, name: str, fault: Fault) -> None:
        worked = fault in (Fault.BROKEN, Fault.STUCK)
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
            self.held.release("ok")
            try:
                self.handler.renew(self, lease.replica, self.again)
            except errors.ApiError as error:
                self.fail(error)
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
    if fault is Fault.UNREACHABLE:
        return errors.upstream_unreachable(message)
    return errors.upstream_error(message)
