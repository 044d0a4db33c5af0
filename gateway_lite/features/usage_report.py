"""Usage reports of streams: asked for by the gateway, and removed again from the stream."""

from __future__ import annotations

import msgspec

from gateway_lite.wire.sse import Events, payload, split
from gateway_lite.wire.token_usage import UNREADABLE, Usage


class Report(msgspec.Struct):
    """The counted part of an engine's report."""

    prompt_tokens: int
    completion_tokens: int = 0


class ChoicesOnly(msgspec.Struct):
    """A chunk of a stream, with only the fields for usage."""

    choices: list[msgspec.Raw]
    usage: Report | None = None


class Asked(msgspec.Struct):
    """A request, with only the fields for the usage report of a stream."""

    stream: bool | None = None
    stream_options: msgspec.Raw = msgspec.Raw(b"")


EXTRA = msgspec.json.Decoder(ChoicesOnly)
ASKED = msgspec.json.Decoder(Asked)
ASK = b'"stream_options":{"include_usage":true},'
HINTS = (b'"choices":[]', b'"choices": []')


def add_usage(body: bytes) -> bytes | None:
    """Return a request with a wish for the stream's usage report, or None without a change.

    An explicit choice of the client's, false included, is never changed.

    Args:
        body: a request's JSON object.
    """
    try:
        asked = ASKED.decode(body)
        said = bytes(asked.stream_options)
        if not asked.stream or said not in {b"", b"null"}:
            return None
        if said:
            whole = msgspec.json.decode(body)
            del whole["stream_options"]
            body = msgspec.json.encode(whole)
    except UNREADABLE:
        return None
    # Inserted as text: all other bytes stay as the client sent them, without another encoding.
    start = body.index(b"{") + 1
    return body[:start] + ASK + body[start:]


class StreamUsage:
    """A filter for the usage report that the gateway requested; keeps the counts."""

    __slots__ = ("_events", "usage")

    def __init__(self) -> None:
        self._events = Events()
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the complete events, without the event that is only a usage report."""
        whole = self._events.whole(data)
        if not _hinted(whole):
            return whole
        return b"".join(map(self._without, split(whole)))

    def finish(self) -> bytes:
        """Return the bytes of an unfinished event."""
        return self._without(self._events.rest())

    def _without(self, event: bytes) -> bytes:
        """Return an event, or nothing for the usage report."""
        if not _hinted(event):
            return event
        try:
            extra = EXTRA.decode(payload(event))
        except UNREADABLE:
            return event
        if extra.choices or extra.usage is None:
            return event
        self.usage = Usage(extra.usage.prompt_tokens, extra.usage.completion_tokens)
        return b""


def _hinted(data: bytes) -> bool:
    """Return whether bytes may hold the usage report; only then is anything parsed."""
    return HINTS[0] in data or HINTS[1] in data
