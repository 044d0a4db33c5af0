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
    """

    def __init__(
        self,
        app: App,
        authenticate: Callable[[bytes], object | None],
        gate: Gate,
        *,
        open_health: bool,
    ) -> None:
        self._app = app
        self._authenticate = authenticate
        self._gate = gate
        self._open_health = open_health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        answer = _Answer(send, request_id(scope))
        scope["request_id"] = answer.request_id
        self._gate.enter()
        try:
            await self._serve(scope, receive, answer.send)
        except ClientGone:
            log.debug("request %s: the client left", answer.request_id.decode())
        except errors.ApiError as error:
            await answer.fail(error)
        except Exception:
            log.exception("request %s failed", answer.request_id.decode())
            await answer.fail(errors.internal())
        finally:
            self._gate.leave()

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

    def __init__(self, send: Send, name: bytes) -> None:
        self._send = send
        self.request_id = name
        self._begun = False
        self._events = False

    async def send(self, message: Message) -> None:
        """Pass a message on, with the request's name in the first."""
        if message["type"] == "http.response.start":
            self._begun = True
            self._events = _is_event_stream(message["headers"])
            message["headers"] = [*message["headers"], (b"x-request-id", self.request_id)]
        await self._send(message)

    async def fail(self, error: errors.ApiError) -> None:
        """Answer with an error, or end a stream with one; cut anything else short."""
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
