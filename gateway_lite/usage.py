"""What an answer says it cost, read from its end alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

TAIL_BYTES = 8 * 1024
SLACK_BYTES = 2 * 1024
DONE = b"data: [DONE]"
FIELD = b'"usage"'
"""An engine's own field: within a JSON string its quotes would carry backslashes."""
DECODER = json.JSONDecoder()
MOST = 2**40
"""Tokens above which a report is not believed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one request took, as the engine counts them."""

    prompt: int
    completion: int


class Tail:
    """The last bytes of an answer."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append a chunk, and now and then forget what is no longer among the last bytes."""
        self._bytes += chunk if len(chunk) <= TAIL_BYTES else chunk[-TAIL_BYTES:]
        if len(self._bytes) > TAIL_BYTES + SLACK_BYTES:
            del self._bytes[:-TAIL_BYTES]

    def read(self) -> bytes:
        """Return the last bytes, at most TAIL_BYTES of them."""
        return bytes(self._bytes[-TAIL_BYTES:])


def ended(tail: bytes) -> bool:
    """Tell whether an event stream has said its last word."""
    return tail.rstrip().endswith(DONE)


def read(tail: bytes) -> Usage | None:
    """Return what the last report says, or None where the engine made none.

    Args:
        tail: the last bytes of an answer in JSON or of an event stream.
    """
    at = tail.rfind(FIELD)
    while at >= 0:
        usage = _parse(tail[at + len(FIELD) :])
        if usage is not None:
            return usage
        at = tail.rfind(FIELD, 0, at)
    return None


def _parse(text: bytes) -> Usage | None:
    """Return the report that begins after the field's name."""
    value = text.lstrip()
    if not value.startswith(b":"):
        return None
    value = value[1:].lstrip()
    if not value.startswith(b"{"):
        return None
    try:
        report, _ = DECODER.raw_decode(value.decode("latin-1"))
    except (ValueError, RecursionError):
        return None
    prompt = _count(report, "prompt_tokens", "input_tokens")
    completion = _count(report, "completion_tokens", "output_tokens")
    return None if prompt is None else Usage(prompt, completion or 0)


def _count(report: dict[str, Any], *names: str) -> int | None:
    """Return the first of some counts that makes sense."""
    for name in names:
        count = report.get(name)
        if type(count) is int and 0 <= count <= MOST:
            return count
    return None
