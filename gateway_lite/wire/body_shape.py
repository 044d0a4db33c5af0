"""The bounds on the parts of a JSON body, checked before any object is made of it.

A body of 8 MiB may hold 3 million empty objects, which take 0.2 s and 600 MB once decoded. Counted
characters are an upper bound of the parts, at 2 ms per MiB; only a body beyond it, such as long
program text, is counted outside of its strings, at 4 ms per MiB and up to the first bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

FIELDS = 30_000
"""Objects, lists and fields of objects in one body, as 10,000 messages with two fields have."""
TEXTS = 100_000
"""Strings of one body, names of fields included."""
VALUES = 300_000
"""Values of one body; prompts as token ids have one for each token."""
UNCHECKED = 64 * 1024
"""Bytes of a body that are decoded within 5 ms, whatever they are."""
SLICE = 256 * 1024


def check(body: bytes) -> Iterator[None]:
    """Refuse a body with too many parts; yields after each slice of about 1 ms.

    Raises:
        ApiError: a bound is exceeded.
    """
    if len(body) <= UNCHECKED or not (yield from _dense(body)):
        return
    quotes = fields = values = start = 0
    # In slices: a body made of nothing else breaks a bound in the first MiB, and the rest is saved.
    while start < len(body):
        part = _slice(body, start)
        start += len(part)
        # Without escaped backslashes and quotes, every quote begins or ends a string.
        texts = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(texts[quotes & 1 :: 2])
        quotes += len(texts) - 1
        fields += _fields(outside)
        values += outside.count(b",")
        if quotes > 2 * TEXTS:
            raise errors.too_many_parts(f"{TEXTS} strings")
        if fields > FIELDS:
            raise errors.too_many_parts(f"{FIELDS} objects, lists and fields")
        if values > VALUES:
            raise errors.too_many_parts(f"{VALUES} values")
        yield


def _slice(body: bytes, start: int) -> bytes:
    """Return the bytes of a slice, which ends behind a whole escape."""
    part = body[start : start + SLICE]
    half = (len(part) - len(part.rstrip(b"\\"))) & 1
    return body[start : start + SLICE + 1] if half else part


def _dense(body: bytes) -> Generator[None, None, bool]:
    """Return whether a body may break a bound, by its characters inside of strings or not."""
    fields = values = quotes = 0
    for start in range(0, len(body), SLICE):
        part = body[start : start + SLICE]
        fields += _fields(part)
        values += part.count(b",")
        quotes += part.count(b'"')
        if fields > FIELDS or values > VALUES or quotes > 2 * TEXTS:
            return True
        yield
    return False


def _fields(text: bytes) -> int:
    return text.count(b":") + text.count(b"{") + text.count(b"[")
