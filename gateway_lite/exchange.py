"""One request on its way to a replica and back, without a task: every step is a callback.

Nothing is sent to the client before the first byte of the answer is here; until then another
replica may be asked, after it never.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from gateway_lite import errors, reply
from gateway_lite.desk import fault_error
from gateway_lite.outlet import Outlet
from gateway_lite.record import Record, request_id
from gateway_lite.upstream import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from gateway_lite.ask import Ask
    from gateway_lite.desk import Client, Desk
    from gateway_lite.edit import Editor
    from gateway_lite.place import Lease, Waiting
    from gateway_lite.replicas import Replica
    from gateway_lite.upstream import Dial, Link

log = logging.getLogger(__name__)
clock = time.perf_counter

UNAUTHORIZED = 401
UNAVAILABLE = 503
FAILED = 400
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Answers of a replica after which another one is asked."""


class _Nothing:
    """Stands where uvicorn has an event that wakes a task; here is no task."""

    def set(self) -> None:
        """Wake nobody."""


class Exchange:
    """One request.

    It takes the place of uvicorn's cycle in the protocol's pipeline, and has the attributes that
    the protocol uses of one: ``response_complete``, ``disconnected``, ``keep_alive`` and
    ``message_event``.

    Args:
        client: the connection it came on.
        desk: decides on it.
        method: GET or POST.
        path: without the query.
        headers: with lower-case names.
        keep_alive: the connection may serve another request after it.
        plain: the client knows no chunks (HTTP/1.0).

    Attributes:
        ask: what the body asks for, once the desk has read it.
        models: whom the desk would ask for an answer, in order; ``turn`` is the present one.
        tried: keys of replicas that failed it.
        replayed: a replica may have worked on it already; that happens once at most.
        renewed: a replica's secret was read again for it.
    """

    __slots__ = (
        *("_client", "_desk", "_editors_done", "_kind", "_lines", "_link", "_parts", "_sent_at"),
        *("_size", "_status", "_streams", "_waited_at", "_waiting", "ask", "body", "content_type"),
        *("disconnected", "editors", "extra", "grant", "headers", "lease", "method", "models"),
        *("opened", "outlet", "path", "principal", "record", "renewed", "replayed"),
        *("response_complete", "tried", "turn", "whole", "work"),
    )
    message_event = _Nothing()

    def __init__(
        self,
        client: Client,
        desk: Desk,
        method: bytes,
        path: str,
        headers: Mapping[bytes, bytes],
        *,
        keep_alive: bool,
        plain: bool,
    ) -> None:
        self._client = client
        self._desk = desk
        self.method = method
        self.path = path
        self.headers = headers
        self.record = Record(request_id(headers.get(b"x-request-id")))
        self.outlet = Outlet(client, self.record, keep_alive=keep_alive, plain=plain)
        self.body = b""
        self._parts: list[bytes] = []
        self._size = self.turn = 0
        self.opened = self.whole = self.replayed = self.renewed = False
        self.response_complete = self.disconnected = False
        self.principal: Any = None
        self.grant: Any = None
        self.work: Any = None
        self.ask: Ask | None = None
        self.lease: Lease | None = None
        self._link: Link | Dial | None = None
        self._waiting: Waiting | None = None
        self.editors: tuple[Editor, ...] = ()
        self.content_type: bytes | None = None
        self.tried: list[str] = []
        self.models: tuple[str, ...] = ()
        self.extra = b""
        self._sent_at = 0.0

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
        self._desk.gate.enter(self.expire)
        try:
            self._desk.check(self)
        except errors.ApiError as error:
            if b"expect" in self.headers:
                self.keep_alive = False
            self.fail(error)
            return
        if self.whole:
            self._admit()
        elif b"expect" in self.headers:
            self.outlet.go_on()

    def add(self, data: bytes) -> None:
        """Take bytes of the request's body."""
        if self.response_complete:
            return
        self._size += len(data)
        if self._size <= self._desk.settings.body_bytes:
            self._parts.append(data)
        elif self.opened:
            self.fail(errors.too_large(self._desk.settings.body_bytes))

    def complete(self) -> None:
        """Note that the request is complete."""
        self.whole = True
        parts = self._parts
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self.opened and not self.response_complete:
            self._admit()

    def _admit(self) -> None:
        try:
            if self._size > self._desk.settings.body_bytes:
                raise errors.too_large(self._desk.settings.body_bytes)
            self._desk.admit(self)
            if not self.response_complete:
                self._place()
        except errors.ApiError as error:
            self.fail(error)
        except Exception:
            log.exception("request %s failed", self.record.name)
            self.fail(errors.internal())

    # It finds a replica.

    def _place(self) -> None:
        lease = self._desk.place(self)
        if lease is not None:
            self._send(lease)
            return
        self._waited_at = clock()
        self._waiting = self._desk.wait(self, self._placed)

    def _placed(self, found: Lease | Exception) -> None:
        self._waiting = None
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

    def _send(self, lease: Lease, *, fresh: bool = False) -> None:
        self.lease = lease
        self.record.attempts += not fresh
        self.record.replica = lease.replica.name
        self._sent_at = clock()
        self._link = self._desk.send(self, lease.replica, fresh=fresh)

    def own_share_s(self) -> float:
        """Return seconds that the request spent here before it was sent to the replica."""
        return max(0.0, self._sent_at - self.record.began - self.record.queue_s)

    # The answer comes.

    def answered(self, link: Link) -> None:
        """Judge by the head whether the client gets this answer."""
        status = link.status
        if status >= FAILED and self._rejected(link, status):
            return
        self._status = status
        self._lines = reply.passed_back(link.headers)
        self._kind = reply.content_type(link.headers)
        self._streams = not self._kind.startswith(reply.JSON)
        self._parts = []
        self._size = 0

    def _rejected(self, link: Link, status: int) -> bool:
        """Tell whether this answer is no answer, and do what comes then."""
        lease = self.lease
        if lease is None:
            return True
        if status == UNAUTHORIZED:
            link.abort()
            self.release("ok")
            self._renew(lease.replica)
            return True
        if status not in ELSEWHERE:
            return False
        log.warning("request %s: %s answers %d", self.record.name, lease.replica.name, status)
        if lease.replica.key not in self.tried:
            self.tried.append(lease.replica.key)
        if not self._desk.another(self, worked=status != UNAVAILABLE, elsewhere=True):
            return False
        link.abort()
        self.release("failed")
        self.again()
        return True

    def _renew(self, replica: Replica) -> None:
        try:
            self._desk.renew(self, replica)
        except errors.ApiError as error:
            self.fail(error)

    def came(self, data: bytes) -> None:
        """Take bytes of the answer's body."""
        record = self.record
        lease = self.lease
        if lease is not None:
            lease.moved()
        if not self._streams:
            self._collect(data)
            return
        record.reads += 1
        record.tail.add(data)
        if self.editors:
            data = self._edit(data)
            if not data:
                return
        if self.outlet.begun:
            self.outlet.more(data)
        else:
            self._begin(data)

    def _collect(self, data: bytes) -> None:
        """Take bytes of an answer that goes out as a whole, so that it can be replayed."""
        self._size += len(data)
        limit = self._desk.settings.body_bytes
        if self._size <= limit:
            self._parts.append(data)
            return
        if self._link is not None:
            self._link.abort()
        self.broke(Fault.TOO_LARGE, f"more than {limit} bytes")

    def _edit(self, data: bytes) -> bytes:
        for editor in self.editors:
            data = editor.feed(data)
        return data

    def _rest(self) -> bytes:
        """Return what the editors held back."""
        data = b""
        for editor in self.editors:
            data = (editor.feed(data) if data else b"") + editor.finish()
        return data

    def _begin(self, data: bytes) -> None:
        events = self._kind.startswith(reply.EVENTS)
        self.outlet.begin(self._status, self._all_lines(), data, events=events)

    def _all_lines(self) -> bytes:
        return self._lines + self._desk.lines(self)

    def ended(self) -> None:
        """Send what is left of the answer."""
        if self._streams:
            self._end_stream()
        else:
            self._end_whole()
        self._finish("ok")

    def _end_whole(self) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.record.tail.add(data)
        self.record.reads += 1
        if self.editors:
            data = self._edit(data) + self._rest()
        self.outlet.whole(self._status, self._all_lines(), data)
        self.record.complete = True

    def _end_stream(self) -> None:
        rest = self._rest() if self.editors else b""
        if not self.outlet.begun:
            self._begin(rest)
        elif rest:
            self.outlet.more(rest)
        self.outlet.end()
        self.record.complete = True

    # Something goes wrong.

    def broke(self, fault: Fault, detail: str) -> None:
        """Try again where that is safe, else say what happened."""
        lease = self.lease
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
        self.release("unreachable" if fault is Fault.UNREACHABLE else "failed")
        self._retry(fault, fault_error(name, fault))

    def _retry(self, fault: Fault, error: errors.ApiError) -> None:
        final = fault in (Fault.SILENT, Fault.TOO_LARGE)
        worked = fault is Fault.BROKEN
        if final or not self._desk.another(self, worked=worked, elsewhere=not worked):
            self.fail(error)
        else:
            self.again()

    def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, or end an event stream with one; cut anything else short."""
        if self.response_complete:
            return
        self.record.failed(error.status, error.code)
        if not self.outlet.begun:
            self._refuse(error)
        elif not self.outlet.said:
            self.outlet.spoil(error)
        self._finish("failed")

    def _refuse(self, error: errors.ApiError) -> None:
        if error.closes:
            self.keep_alive = False
        lines, body = self._desk.refusal(error, self)
        self.outlet.whole(error.status, lines, body)

    def expire(self) -> None:
        """End, as the server must."""
        self._abort()
        self.fail(errors.draining())

    def left(self) -> None:
        """End, as the client has left."""
        self.disconnected = True
        if self.response_complete or not self.opened:
            return
        if self.outlet.said:
            return  # it has all it wanted; the replica's last bytes are on their way
        self._abort()
        self.record.left()
        self._finish("left")

    def _abort(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._link is not None:
            self._link.abort()

    def pause(self) -> None:
        """Let the replica wait: the client does not read."""
        if self._link is not None and self.outlet.begun:
            self._link.pause()

    def resume(self) -> None:
        """Let the replica go on."""
        if self._link is not None:
            self._link.resume()

    def release(self, outcome: str) -> None:
        """Give the place at the replica back."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(outcome)

    def _finish(self, outcome: str) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        self.release(outcome)
        self._link = None
        self._desk.gate.leave(self.expire)
        self._desk.finished(self)
        self._client.answered(self)
