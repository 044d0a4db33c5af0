"""Server-sent events: whole events out of bytes that are cut anywhere."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Protocol

from gateway_lite import errors


class Editor(Protocol):
    """An editor of one answer's body; bytes arrive cut anywhere."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, and return the bytes to pass on; the held-back part must be bounded."""
        ...

    def finish(self) -> bytes:
        """Return the rest at the end of the answer."""
        ...


class ResponseEdits(Protocol):
    """The edits of one answer: editors of its body, and the client's content type."""

    def editors(self, status: int, *, events: bool) -> tuple[Editor, ...]:
        """Return the editors of an answer, in order; ``events`` is True for an event stream."""
        ...

    def content_type(self, status: int) -> bytes | None:
        """Return the content type of the client's answer; None keeps the engine's."""
        ...


END = re.compile(rb"\r?\n\r?\n")
MOST_BYTES = 64 * 2**20
"""A bound on buffered bytes of one event, or of an answer in one piece: that of an answer which is
no stream. A picture, a sound or a long answer comes in one event, above 8 MiB at times.
"""
LEAST = 2
"""The largest computed end if no separator is found: -1 + 3."""
SEAM = 3
"""Bytes of a separator that an earlier read may hold."""


class WholeBody:
    """A collected answer in one piece, of ``MOST_BYTES`` at most.

    Args:
        purpose: the verb for the error, such as "redact".
    """

    __slots__ = ("_chunks", "_purpose", "_size")

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        """Collect a part of the answer.

        Raises:
            ApiError: the answer is larger than any engine makes.
        """
        self._size += len(data)
        if self._size > MOST_BYTES:
            raise errors.upstream_error(
                f"the engine sent an answer that is too large to {self._purpose}"
            )
        self._chunks.append(data)

    def take(self) -> bytes:
        """Return the complete answer, and forget it."""
        body = b"".join(self._chunks)
        self._chunks = []
        return body


class Events:
    """A buffer that returns whole events.

    Args:
        most: largest kept size of an unfinished event in bytes.
    """

    __slots__ = ("_held", "_last", "_most", "_size")

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._held: list[bytes] = []
        self._last = b""
        self._size = 0
        self._most = most

    def whole(self, data: bytes) -> bytes:
        """Return the bytes up to the end of the last complete event.

        Raises:
            ApiError: an event is larger than any engine makes.
        """
        # Engines write whole events, so nearly every read ends here without a search.
        if data.endswith(b"\n\n"):
            return self._taken() + data if self._held else data
        # Only the seam is searched again: an event of many reads costs no search of all before.
        seam = self._last
        near = seam + data
        end = max(near.rfind(b"\n\n") + 2, near.rfind(b"\n\r\n") + 3)
        if end <= LEAST:
            self._hold(data)
            return b""
        end -= len(seam)
        whole = self._taken() + data[: max(end, 0)]
        self._hold(data[end:])
        return whole

    def _hold(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            raise errors.upstream_error("the engine sent an event without an end")
        if data:
            self._held.append(data)
            self._last = (self._last + data)[-SEAM:]

    def _taken(self) -> bytes:
        """Take what is held out of the buffer."""
        held = b"".join(self._held)
        self._held.clear()
        self._last, self._size = b"", 0
        return held

    def feed(self, data: bytes) -> list[bytes]:
        """Return the complete events, each with the empty line at the end."""
        return split(self.whole(data))

    def rest(self) -> bytes:
        """Take the unfinished event out of the buffer and return it."""
        return self._taken()


def split(whole: bytes) -> list[bytes]:
    """Return the events in bytes that end with a complete event."""
    edges = [0, *(end.end() for end in END.finditer(whole))]
    if edges[-1] < len(whole):
        edges.append(len(whole))
    return [whole[start:end] for start, end in pairwise(edges)]


def payload(event: bytes) -> bytes:
    """Return the data of an event, its data lines joined."""
    # One data line is the form of all engines; the general form below costs a split.
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 2:
        return event[6:].rstrip()
    lines = event.splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line[:5] == b"data:")


def replaced(event: bytes, data: bytes) -> bytes:
    """Return an event with another payload in a single line; other fields stay."""
    if event.startswith(b"data:"):
        return b"data: " + data + b"\n\n"
    kept = [line for line in event.splitlines() if line and not line.startswith(b"data:")]
    return b"\n".join([*kept, b"data: " + data]) + b"\n\n"
