"""The usage report of an answer: read from its last bytes, and requested if the client did not."""

from __future__ import annotations

import json
from typing import Any

import msgspec

TAIL_BYTES = 8 * 1024
SLACK_BYTES = 2 * 1024
DONE = b"data: [DONE]"
FIELD = b'"usage"'
"""The engine's own field; inside a JSON string its quotes would have backslashes."""
DECODER = json.JSONDecoder()
MOST = 2**40
"""Tokens above which a report is ignored as wrong."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request, as counted by the engine."""

    prompt: int
    completion: int


class Tail:
    """The last bytes of an answer."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, chunk: bytes) -> None:
        """Append a chunk, and from time to time drop bytes that are no longer among the last."""
        self._bytes += chunk if len(chunk) <= TAIL_BYTES else chunk[-TAIL_BYTES:]
        # With 2 KiB of slack, the move of the buffer happens once for many small chunks.
        if len(self._bytes) > TAIL_BYTES + SLACK_BYTES:
            del self._bytes[:-TAIL_BYTES]

    def read(self) -> bytes:
        """Return the last bytes, at most TAIL_BYTES of them."""
        return bytes(self._bytes[-TAIL_BYTES:])


def ended(tail: bytes) -> bool:
    """Return whether an event stream has ended with [DONE]."""
    return tail.rstrip().endswith(DONE)


def read(tail: bytes) -> Usage | None:
    """Return the last usage report in the bytes, or None.

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
    """Return the report that follows the field's name."""
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
    """Return the first plausible count of several fields."""
    for name in names:
        count = report.get(name)
        if type(count) is int and 0 <= count <= MOST:
            return count
    return None


class _Reported(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Reported | None = None


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
ANSWER = msgspec.json.Decoder(_Answer)


def of_whole(body: bytes) -> Usage | None:
    """Return the usage reported in a JSON answer, or None; cheaper than ``read``."""
    if len(body) <= TAIL_BYTES:
        try:
            found = ANSWER.decode(body).usage
        except UNREADABLE:
            found = None
        if found is not None:
            prompt = found.prompt_tokens if found.input_tokens is None else found.input_tokens
            answer = found.completion_tokens or found.output_tokens or 0
            if prompt is not None and 0 <= prompt <= MOST and 0 <= answer <= MOST:
                return Usage(prompt, answer)
    return read(body[-TAIL_BYTES:])
