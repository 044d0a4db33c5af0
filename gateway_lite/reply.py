"""The bytes of an answer: heads, chunks, and which headers go from one side to the other."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway_lite.upstream import Target

EVENTS = b"text/event-stream"
JSON = b"application/json"
LAST = b"0\r\n\r\n"
PASSED_ON = (b"accept", b"traceparent", b"tracestate")
"""Headers of a client that engines get; above all not its key."""
PASSED_BACK = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"openai-processing-ms",
    }
)
"""Headers of an engine's answer that clients get; the rest stays between it and us."""
STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
UNBUFFERED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
CLOSE = b"connection: close\r\n"


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    return STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def chunk(data: bytes) -> bytes:
    """Return bytes, at least one, as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def passed_back(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the lines that the client gets of an engine's head."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers if pair[0] in PASSED_BACK])


def content_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return what kind of answer follows; JSON where the engine does not say."""
    for name, value in headers:
        if name == b"content-type":
            return value
    return JSON


def request_head(fixed: bytes, headers: Mapping[bytes, bytes], name: bytes, size: int) -> bytes:
    """Return the head of a request to a replica.

    Args:
        fixed: request line, host and authorization.
        headers: those of the client.
        name: the request's id.
        size: bytes of the body.
    """
    kind = headers.get(b"content-type", JSON)
    parts = [
        fixed,
        b"content-type: %b\r\naccept-encoding: identity\r\nx-request-id: %b\r\n" % (kind, name),
    ]
    parts += [b"%b: %b\r\n" % (n, headers[n]) for n in PASSED_ON if n in headers]
    parts.append(b"content-length: %d\r\n\r\n" % size)
    return b"".join(parts)


def request_start(method: str, where: Target, path: str, secret: str | None) -> bytes:
    """Return what the requests to one replica for one path have in common.

    Args:
        method: HTTP method.
        where: the replica.
        path: without the prefix that the replica may have.
        secret: bearer token that it asks for, or None.
    """
    start = f"{method} {where.prefix}{path} HTTP/1.1\r\nhost: {where.name}\r\n"
    token = "" if secret is None else f"authorization: Bearer {secret}\r\n"
    return (start + token).encode("latin-1")
