"""The head of a request to a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_lite.wire import trace_context
from gateway_lite.wire.response_head import JSON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway_lite.upstream.pool import UpstreamAddress


KINDS = (b"application/json", b"multipart/")
"""Content types that go on. Any other body was read as JSON, and is declared so: ``curl -d`` says
form, and engines refuse that.
"""


def request_head(fixed: bytes, headers: Mapping[bytes, bytes], name: bytes, size: int) -> bytes:
    """Return the head of a request to a replica.

    Of the client's headers content type, accept and a valid trace context go on; the client's key
    never does.

    Args:
        fixed: request line, host and authorization.
        headers: the client's headers.
        name: the request's id.
        size: bytes of the body.
    """
    kind = headers.get(b"content-type", JSON)
    if not kind.lower().startswith(KINDS):
        kind = JSON
    accept = headers.get(b"accept", b"*/*")
    more = trace_context.lines(headers) if b"traceparent" in headers else b""
    return (
        b"%bcontent-type: %b\r\naccept: %b\r\naccept-encoding: identity\r\nx-request-id: %b\r\n"
        b"%bcontent-length: %d\r\n\r\n" % (fixed, kind, accept, name, more, size)
    )


def request_start(method: str, where: UpstreamAddress, path: str, token: str | None) -> bytes:
    """Return the common start of all requests to one server and path.

    Args:
        method: HTTP method.
        where: the server's address.
        path: path without the server's prefix.
        token: bearer token that the server requires, or None.
    """
    start = f"{method} {where.prefix}{path} HTTP/1.1\r\nhost: {where.name}\r\n"
    line = "" if token is None else f"authorization: Bearer {token}\r\n"
    return (start + line).encode("latin-1")
