"""ASGI helpers for endpoints: headers, bodies, answers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from gateway_lite import errors
from gateway_lite.wire import content_coding, error_forms

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class ClientGone(Exception):  # noqa: N818 - not an error, the client's choice
    """The client closed its connection."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request's header by its lower-case name, or None."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return a request's whole body, unpacked.

    Args:
        scope: the request.
        receive: returns its messages.
        limit: largest body in bytes; a larger ``content-length`` is refused before the body is
            read.

    Raises:
        ApiError: the body is larger, or packed in a way that is not read.
        ClientGone: the client left before the body was complete.
    """
    told = header(scope, b"content-length")
    if told is not None and int(told) > limit:
        raise errors.too_large(limit)
    coding = content_coding.named(header(scope, b"content-encoding"))
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise errors.too_large(limit)
        if not message.get("more_body"):
            body = b"".join(parts)
            return content_coding.plain(body, coding, limit) if coding else body


async def send_bytes(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send a complete answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, value: object, *, status: int = 200, headers: Headers = ()) -> None:
    """Send a value as JSON."""
    body = json.dumps(value, separators=(",", ":")).encode()
    await send_bytes(send, status, body, [(b"content-type", b"application/json"), *headers])


async def send_error(send: Send, error: errors.ApiError, form: str = "") -> None:
    """Send an error of the gateway.

    Args:
        send: sends messages of the answer.
        error: the error.
        form: a path in whose API's form the error is told; OpenAI's form without any.
    """
    headers = [(b"content-type", b"application/json"), *error.headers]
    await send_bytes(send, error.status, error_forms.body(error, form), headers)
