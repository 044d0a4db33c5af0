"""The outermost layer: names every request, asks for a key, drains, and answers what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.asgi import ClientGone, header, send_error, send_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.asgi import App, Message, Receive, Scope, Send
    from gateway_lite.record import Record
    from gateway_lite.seen import Seen

log = logging.getLogger(__name__)

SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
HEALTH = "/healthz"


class Gate:
    """How many requests are under way, and whether new ones are let in.

    Attributes:
        idle: set while no request is under way.
        draining: new requests are refused.
        expired: done when those under way must end too.
    """

    def __init__(self) -> None:
        self._active = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False
        self.expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def enter(self) -> None:
        """Count a request from its first byte."""
        self._active += 1
        self.idle.clear()

    def leave(self) -> None:
        """Count it no more, after its last byte."""
        self._active -= 1
        if not self._active:
            self.idle.set()

    def expire(self) -> None:
        """End what is under way."""
        self.draining = True
        if not self.expired.done():
            self.expired.set_result(None)


class Edge:
    """Wraps an application so that nothing reaches it without a key.

    Args:
        app: what serves a request that is let in.
        authenticate: takes the bearer token, returns who it is or None; raises ApiError.
        gate: shared with the server that drains.
        open_health: answer ``/healthz`` without a key.
        seen: notes every request; None notes nothing.
    """

    def __init__(
        self,
        app: App,
        authenticate: Callable[[bytes], object | None],
        gate: Gate,
        *,
        open_health: bool,
        seen: Seen | None = None,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._gate = gate
        self._open_health = open_health
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        name = request_id(scope)
        record = None if self._seen is None else self._seen.begin(scope, name.decode())
        answer = _Answer(send, name, record)
        scope["request_id"] = name
        self._gate.enter()
        try:
            await self._serve(scope, receive, answer.send)
        except ClientGone:
            answer.abandon()
            log.debug("request %s: the client left", name.decode())
        except errors.ApiError as error:
            await answer.fail(error)
        except Exception:
            log.exception("request %s failed", name.decode())
            await answer.fail(errors.internal())
        finally:
            self._gate.leave()
            if self._seen is not None and record is not None:
                self._seen.end(scope, record)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gate.draining:
            raise errors.draining()
        if self._open_health and scope["path"] == HEALTH:
            return await send_json(send, {"status": "ok"})
        scope["principal"] = self._authenticate(bearer(scope))
        if scope["principal"] is None:
            raise errors.unauthorized()
        return await self._app(scope, receive, send)


class _Answer:
    """One answer on its way out: knows whether and as what it has begun."""

    def __init__(self, send: Send, name: bytes, record: Record | None) -> None:
        self._send = send
        self._name = name
        self._record = record
        self._begun = False
        self._events = False

    async def send(self, message: Message) -> None:
        """Pass a message on, with the request's name in the first."""
        if message["type"] == "http.response.start":
            self._begun = True
            self._events = _is_event_stream(message["headers"])
            message["headers"] = [*message["headers"], (b"x-request-id", self._name)]
            if self._record is not None:
                self._record.status = message["status"]
            return await self._send(message)
        await self._send(message)
        if self._record is not None:
            self._record.sent(message.get("body", b""), more=message.get("more_body", False))
        return None

    def abandon(self) -> None:
        """Note that nobody waits for it any more."""
        if self._record is not None:
            self._record.left()

    async def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, or end a stream with one; cut anything else short."""
        if self._record is not None:
            self._record.failed(error.status, error.code)
        if not self._begun:
            await send_error(self.send, error)
        elif self._events:
            await self._send({"type": "http.response.body", "body": error.frames()})


def _is_event_stream(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(n == b"content-type" and v.startswith(b"text/event-stream") for n, v in headers)


def bearer(scope: Scope) -> bytes:
    """Return the token of the Authorization header; empty where there is none."""
    kind, _, token = (header(scope, b"authorization") or b"").partition(b" ")
    return token.strip() if kind.lower() == b"bearer" else b""


def request_id(scope: Scope) -> bytes:
    """Return the client's own name for the request where it is sane, else a new one."""
    given = header(scope, b"x-request-id")
    if given is not None and SANE_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex.encode()
