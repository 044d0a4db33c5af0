"""The bytes of HTTP messages: heads, chunks, and the headers passed between client and engine."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


EVENTS = b"text/event-stream"
LONGEST_PLACE = 200
"""Characters of a target of a redirect in logs and errors."""
JSON = b"application/json"
LAST = b"0\r\n\r\n"
PASSED_BACK = (
    b"content-encoding",
    b"retry-after",
    b"retry-after-ms",
    b"x-should-retry",
    b"openai-processing-ms",
)
"""Engine headers passed to clients beside the content type; all other headers are dropped."""
PASSED = frozenset(PASSED_BACK)
STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
UNBUFFERED = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
CLOSE = b"connection: close\r\n"


def status_line(status: int) -> bytes:
    """Return the first line of an answer."""
    return STATUS.get(status) or b"HTTP/1.1 %d \r\n" % status


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as header lines."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def last(status: int, defaults: bytes, body: bytes) -> bytes:
    """Return a complete JSON answer that closes the connection.

    Args:
        status: HTTP status.
        defaults: the header lines of every answer.
        body: the complete body.
    """
    head = b"%bcontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return status_line(status) + head % (defaults, CLOSE, len(body)) + body


def chunk(data: bytes) -> bytes:
    """Return at least one byte as an HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def passed_back(headers: Mapping[bytes, bytes], kind: bytes) -> bytes:
    """Return the header lines of an engine's answer that the client gets.

    Args:
        headers: the engine's headers.
        kind: content type of the client's answer.
    """
    # Nearly all answers: one set operation in place of five look-ups.
    if PASSED.isdisjoint(headers):
        return b"content-type: %b\r\n" % kind
    parts = [b"content-type: %b\r\n" % kind]
    parts += [b"%b: %b\r\n" % (name, headers[name]) for name in PASSED_BACK if name in headers]
    return b"".join(parts)


def redirected(status: int, headers: Mapping[bytes, bytes]) -> str:
    """Return the words for a redirect, with its target but without user, query and fragment.

    Args:
        status: HTTP status, from 300 to 399.
        headers: the answer's headers.
    """
    place = _place(headers.get(b"location", b"").decode("latin-1"))
    return f"redirects ({status}) to {place}, which is not followed"


def _place(location: str) -> str:
    """Return a redirect's target in words for logs; a server may name any bytes."""
    try:
        target = urlsplit(location)
        host, port = target.hostname or "", target.port
    except ValueError:
        return "no address"
    place = f"{target.scheme}://{host}" if target.netloc else ""
    found = f"{place}{'' if port is None else f':{port}'}{target.path}"
    return "".join(filter(str.isprintable, found))[:LONGEST_PLACE]
