"""The bounds on the parts of a JSON body, checked before any object is made of it.

A body of 8 MiB may hold 3 million empty objects, which take 0.2 s and 600 MB once decoded. Counted
characters are an upper bound of the parts, at 2 ms per MiB; only a body beyond it, such as long
program text, is counted outside of its strings, at 4 ms per MiB and up to the first bound.
"""

from __future__ import annotations

from gateway_lite import errors

FIELDS = 30_000
"""Objects, lists and fields of objects in one body, as 10,000 messages with two fields have."""
TEXTS = 100_000
"""Strings of one body, names of fields included."""
VALUES = 300_000
"""Values of one body; prompts as token ids have one for each token."""
UNCHECKED = 64 * 1024
"""Bytes of a body that are decoded within 5 ms, whatever they are."""
SLICE = 256 * 1024


def check(body: bytes) -> None:
    """Refuse a body with too many parts.

    Raises:
        ApiError: a bound is exceeded.
    """
    if len(body) <= UNCHECKED or not _dense(body):
        return
    # Without escaped backslashes and quotes, every quote begins or ends a string.
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = fields = values = 0
    inside = 0
    # In slices: a body made of nothing else breaks a bound in the first MiB, and the rest is saved.
    for start in range(0, len(body), SLICE):
        parts = body[start : start + SLICE].split(b'"')
        outside = b"".join(parts[inside::2])
        quotes += len(parts) - 1
        inside = quotes & 1
        fields += _fields(outside)
        values += outside.count(b",")
        if quotes > 2 * TEXTS:
            raise errors.too_many_parts(f"{TEXTS} strings")
        if fields > FIELDS:
            raise errors.too_many_parts(f"{FIELDS} objects, lists and fields")
        if values > VALUES:
            raise errors.too_many_parts(f"{VALUES} values")


def _dense(body: bytes) -> bool:
    """Return whether a body may break a bound, by its characters inside of strings or not."""
    fields = values = 0
    for start in range(0, len(body), SLICE):
        part = body[start : start + SLICE]
        fields += _fields(part)
        values += part.count(b",")
        if fields > FIELDS or values > VALUES:
            return True
    return False


def _fields(text: bytes) -> int:
    return text.count(b":") + text.count(b"{") + text.count(b"[")
