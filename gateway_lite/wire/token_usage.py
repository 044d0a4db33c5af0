"""The usage report of an answer: read from its last bytes, and requested if the client did not."""

from __future__ import annotations

import re

import msgspec

TAIL_BYTES = 8 * 1024
SLACK_BYTES = 2 * 1024
DONE = b"data: [DONE]"
FIELD = b'"usage"'
"""The engine's own field; inside a JSON string its quotes would have backslashes."""
DEPTHS = (b"{", b'{"response":{')
"""Beginnings of an answer, and of the last event of /v1/responses, up to the field."""
EVENT_END = re.compile(rb"\r?\n\r?\n")
TRIES = 8
"""Most fields of the name that are tried, from the last one backwards."""
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

    A report is a field of the answer itself. A field of the same name further inside, such as in a
    tool's schema that the engine repeats, is none.

    Args:
        tail: the last bytes of an answer in JSON or of an event stream.
    """
    end = len(tail)
    for _ in range(TRIES):
        at = tail.rfind(FIELD, 0, end)
        if at < 0:
            return None
        usage = _parse(tail[at:])
        if usage is not None:
            return usage
        end = at
    return None


def _parse(rest: bytes) -> Usage | None:
    """Return the report at the beginning of the rest of an answer or event."""
    event = EVENT_END.split(rest, 1)[0]
    # Only at the right depth do the brackets of the rest match those in front of it.
    for depth in DEPTHS:
        try:
            answer = ANSWER.decode(depth + event)
        except UNREADABLE:
            continue
        inner = None if answer.response is None else answer.response.usage
        usage = _usage(answer.usage or inner)
        if usage is not None:
            return usage
    return None


class _Reported(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Response(msgspec.Struct, gc=False):
    usage: _Reported | None = None


class _Answer(msgspec.Struct, gc=False):
    usage: _Reported | None = None
    response: _Response | None = None


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
ANSWER = msgspec.json.Decoder(_Answer)


def _usage(found: _Reported | None) -> Usage | None:
    """Return a report, if its counts are plausible."""
    if found is None:
        return None
    prompt = found.prompt_tokens if found.input_tokens is None else found.input_tokens
    answer = found.completion_tokens or found.output_tokens or 0
    if prompt is None or not (0 <= prompt <= MOST and 0 <= answer <= MOST):
        return None
    return Usage(prompt, answer)


def of_whole(body: bytes) -> Usage | None:
    """Return the usage reported in a JSON answer, or None; cheaper than ``read``."""
    if len(body) <= TAIL_BYTES:
        try:
            return _usage(ANSWER.decode(body).usage)
        except UNREADABLE:
            return read(body)  # half a character elsewhere in the answer spoils no report
    return read(body[-TAIL_BYTES:])
