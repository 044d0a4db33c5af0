"""The trace context of a request: the headers ``traceparent`` and ``tracestate``.

Source: W3C Trace Context, level 1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{0,200})?"
)
STATE = re.compile(rb"[\x20-\x7e]{1,512}")
NAMES = frozenset({b"traceparent", b"tracestate"})


def parsed(traceparent: bytes | None) -> tuple[int, int, int] | None:
    """Return trace, span and flags of a traceparent header, or None for an invalid header."""
    found = PARENT.fullmatch(traceparent.strip()) if traceparent else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more):
        return None
    ids = int(trace, 16), int(span, 16)
    return (*ids, int(flags, 16)) if all(ids) else None


def lines(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the header lines that go on to an engine: both valid, or the first alone, or none.

    Args:
        headers: a request's headers by lower-case name.
    """
    parent, state = headers.get(b"traceparent"), headers.get(b"tracestate")
    if parent is None or parsed(parent) is None:
        return b""
    made = b"traceparent: %b\r\n" % parent.strip()
    if state is not None and STATE.fullmatch(state):
        made += b"tracestate: %b\r\n" % state
    return made
