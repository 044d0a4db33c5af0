"""The bounds on the parts of a JSON body, checked before any object is made of it.

A body of 8 MiB may hold 3 million empty objects, which take 0.2 s and 600 MB once decoded. Counted
characters are an upper bound of the parts, at 2 ms per MiB; only a body beyond it, such as long
program text, is counted outside of its strings, at 4 ms per MiB.
"""

from __future__ import annotations

from gateway_lite import errors

FIELDS = 50_000
"""Objects, lists and fields of objects in one body: 10,000 messages with two fields have 30,000."""
TEXTS = 200_000
"""Strings of one body, names of fields included."""
VALUES = 500_000
"""Values of one body; prompts as token ids have one for each token."""


def check(body: bytes) -> None:
    """Refuse a body with too many parts.

    Raises:
        ApiError: a bound is exceeded.
    """
    if _fields(body) <= FIELDS and body.count(b",") <= VALUES:
        return
    # Without escaped backslashes and quotes, every quote begins or ends a string.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * TEXTS:
        raise errors.too_many_parts(f"{TEXTS} strings")
    outside = b"".join(plain.split(b'"')[::2])
    if _fields(outside) > FIELDS:
        raise errors.too_many_parts(f"{FIELDS} objects, lists and fields")
    if outside.count(b",") > VALUES:
        raise errors.too_many_parts(f"{VALUES} values")


def _fields(text: bytes) -> int:
    return text.count(b":") + text.count(b"{") + text.count(b"[")
