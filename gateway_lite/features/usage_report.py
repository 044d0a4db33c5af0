"""Usage of streams: asked of the engine by the gateway, counted on the way, and removed again."""

from __future__ import annotations

import re
import time
from math import inf

import msgspec

from gateway_lite import errors
from gateway_lite.wire.sse import Events, payload, split
from gateway_lite.wire.token_usage import UNREADABLE

BYTES_PER_TOKEN = 4
clock = time.perf_counter


class Report(msgspec.Struct):
    """The counted part of an engine's report."""

    prompt_tokens: int
    completion_tokens: int = 0


class ChoicesOnly(msgspec.Struct):
    """A chunk of a stream, with only the fields for usage."""

    choices: list[msgspec.Raw]
    usage: Report | None = None


EXTRA = msgspec.json.Decoder(ChoicesOnly)
_BODY = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decode = msgspec.json.decode
_encode = msgspec.json.encode
OPENINGS = (b"event: response.created", b"event: response.in_progress")
"""Beginnings of events that repeat the request of /v1/responses."""
HINTS = (b'"choices":[]', b'"choices": []')
RUNNING = re.compile(rb',"usage":\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
"""vLLM's counts so far in a chunk; in a string of the chunk the quotes would have backslashes."""


class AskedReport(msgspec.Struct, frozen=True):
    """A request that asks for the usage of its stream.

    Attributes:
        body: the request's JSON.
        last: whether the client, too, asked for the report at the end.
        running: whether the client, too, asked for the counts in every chunk.
    """

    body: bytes
    last: bool
    running: bool


def ask(body: bytes, *, running: bool) -> AskedReport:
    """Return a streaming request that asks for the usage report, whatever the client chose.

    Args:
        body: a request's JSON object, each field once.
        running: ask for counts in every chunk, too, so that a stream that is left has a count.

    Raises:
        ApiError: ``stream_options`` is no object.
    """
    try:
        found = _BODY.decode(body)
        said = _decode(found.get("stream_options", b"null"))
    except UNREADABLE:
        raise errors.bad_request("the request is not valid JSON") from None
    if said is None:
        said = {}
    if type(said) is not dict:
        raise errors.bad_request("'stream_options' must be an object", param="stream_options")
    options = {**said, "include_usage": True}
    if running:
        options["continuous_usage_stats"] = True
    found["stream_options"] = msgspec.Raw(_encode(options))
    return AskedReport(
        _encode(found),
        last=bool(said.get("include_usage")),
        running=bool(said.get("continuous_usage_stats")),
    )


class StreamUsage:
    """A counter of a stream's events, and a filter for counts that only the gateway asked for.

    Args:
        last: keep the report at the end for the client.
        running: keep the counts in every chunk for the client.

    Attributes:
        moved_at: clock value at the last event; None before the first.
    """

    __slots__ = ("_bytes", "_count", "_events", "_last", "_least", "_running", "moved_at")

    def __init__(self, *, last: bool = False, running: bool = True) -> None:
        self._events = Events()
        self._last = last
        self._running = running
        self._count = self._bytes = 0
        self._least = inf
        self.moved_at: float | None = None

    def tokens(self) -> int:
        """Return an estimate of the answer's tokens so far.

        One for each event, and more where events are longer than the shortest: engines put several
        tokens into one event for a slow reader.
        """
        text = self._bytes - self._count * self._least if self._count else 0.0
        return self._count if text <= 0 else max(self._count, int(text) // BYTES_PER_TOKEN)

    def feed(self, data: bytes) -> bytes:
        """Return the complete events, without the counts that the client did not ask for."""
        whole = self._events.whole(data)
        count = whole.count(b"\n\n") + whole.count(b"\r\n\r\n")
        if not count or b"{" not in whole:
            return self._edited(whole)
        if self.moved_at is None:
            # Events about the request itself have no text, and are long.
            said = [len(event) for event in split(whole) if not event.startswith(OPENINGS)]
            self._least, size = min(said, default=inf), sum(said)
        else:
            self._least, size = min(self._least, len(whole) / count), len(whole)
        self._bytes += size
        self._count += count
        self.moved_at = clock()
        return self._edited(whole)

    def finish(self) -> bytes:
        """Return the bytes of an unfinished event."""
        return self._edited(self._events.rest())

    def _edited(self, whole: bytes) -> bytes:
        if _hinted(whole):
            return b"".join(map(self._without, split(whole)))
        return whole if self._running else RUNNING.sub(b"", whole)

    def _without(self, event: bytes) -> bytes:
        """Return an event without running counts, or nothing for the report at the end."""
        if not _hinted(event):
            return event if self._running else RUNNING.sub(b"", event)
        if self._last:
            return event
        try:
            extra = EXTRA.decode(payload(event))
        except UNREADABLE:
            return event
        return event if extra.choices or extra.usage is None else b""


def _hinted(data: bytes) -> bool:
    """Return whether bytes may hold the report at the end; only then is anything parsed."""
    return HINTS[0] in data or HINTS[1] in data
