"""The translation of OpenAI streams into Anthropic streams.

Source: https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway_lite import errors
from gateway_lite.features.anthropic.answers import (
    UNUSABLE,
    complaint,
    ending,
    message_of,
    thoughts_of,
    tool_use,
    usage_of,
)
from gateway_lite.wire import error_forms, tolerant_json
from gateway_lite.wire.sse import Events, payload

DONE = b"[DONE]"
FAULT = 500
"""Status whose kind of error an error amid a stream has."""


class MessageStream:
    """The translation of a stream: OpenAI's events into Anthropic's.

    Args:
        model: model name in the client's request.
    """

    __slots__ = (
        *("_begun", "_closed", "_current", "_events", "_index", "_kind", "_model", "_reason"),
        *("_stop", "_tools", "_usage"),
    )

    def __init__(self, model: str) -> None:
        self._model = model
        self._events = Events()
        self._begun = False
        self._index = -1
        self._kind = ""  # of the open block; empty between blocks
        self._current: Any = None  # number of the tool call whose pieces pass at once
        self._tools: dict[Any, _Tool] = {}
        self._reason: Any = None
        self._stop: Any = None
        self._usage: Any = None
        self._closed = False

    def feed(self, data: bytes) -> bytes:
        """Return the events for the complete events of the engine.

        Raises:
            ApiError: the stream begins with an error, or holds an event without an end.
        """
        return b"".join(map(self._event, self._events.feed(data)))

    def finish(self) -> bytes:
        """Return the last events; a stream that broke off ends with an error."""
        made = self._event(self._events.rest())
        if self._closed:
            return made
        if self._reason is None:
            return made + self._error("the engine's stream ended early")
        return made + self._end()

    def _event(self, event: bytes) -> bytes:
        data = payload(event)
        if self._closed or not data:
            return b""
        if data == DONE:
            return self._end()
        try:
            return self._chunk(tolerant_json.decode(data))
        except UNUSABLE:
            return self._error("the engine's stream cannot be understood")

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the events for a chunk."""
        if chunk.get("error") is not None:
            return self._error(complaint(chunk))
        self._usage = chunk.get("usage") or self._usage
        out = self._begin()
        for choice in chunk["choices"][:1]:
            self._reason = choice.get("finish_reason") or self._reason
            self._stop = choice.get("stop_reason") or self._stop
            delta = choice.get("delta") or {}
            out += self._said("thinking", thoughts_of(delta))
            out += self._said("text", delta.get("content") or delta.get("refusal") or "")
            for tool in delta.get("tool_calls") or ():
                out += self._call(tool)
        return out

    def _begin(self) -> bytes:
        """Return the first events, once."""
        if self._begun:
            return b""
        self._begun = True
        message = message_of(self._model, usage_of(self._usage))
        return _event("message_start", message=message) + _event("ping")

    def _said(self, kind: str, text: str) -> bytes:
        """Return the events for a piece of text or of thoughts."""
        if not text:
            return b""
        out = b""
        if self._kind != kind:
            signature = {"signature": ""} if kind == "thinking" else {}
            out = self._start(kind, {"type": kind, kind: "", **signature})
        return out + self._delta({"type": f"{kind}_delta", kind: text})

    def _call(self, part: dict[str, Any]) -> bytes:
        """Return the events for a piece of a tool call.

        The pieces of one call pass at once. Engines may send several calls interleaved, which
        Anthropic's form cannot hold, so the pieces of another call wait for the end.
        """
        number = int(part.get("index", 0))
        tool = self._tools.get(number)
        if tool is None:
            tool = self._tools[number] = _Tool()
        function = part.get("function") or {}
        tool.id = tool.id or part.get("id")
        tool.name = tool.name or function.get("name")
        more = function.get("arguments") or ""
        tool.text += more
        if self._current is None and tool.name:
            self._current = number
            return self._start("tool_use", tool_use(tool.name, tool.id, {})) + self._json(tool.text)
        if self._current != number:
            return b""
        if self._kind != "tool_use":
            return self._error("the engine goes on with a tool call after its end")
        return self._json(more)

    def _json(self, text: str) -> bytes:
        """Return the event for a piece of a tool's arguments."""
        return self._delta({"type": "input_json_delta", "partial_json": text}) if text else b""

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        """Return the events that begin a block, after the end of the block before."""
        out = self._stop_block()
        self._index += 1
        self._kind = kind
        return out + _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop_block(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _event("content_block_stop", index=self._index)

    def _end(self) -> bytes:
        """Return the last events."""
        out = self._begin()
        for number in sorted(self._tools):
            tool = self._tools[number]
            if number != self._current:
                out += self._start("tool_use", tool_use(tool.name, tool.id, {}))
                out += self._json(tool.text)
        if self._index < 0:
            out += self._start("text", {"type": "text", "text": ""})
        out += self._stop_block()
        self._closed = True
        delta = ending(self._reason, self._stop, tools=bool(self._tools))
        return (
            out
            + _event("message_delta", delta=delta, usage=usage_of(self._usage))
            + _event("message_stop")
        )

    def _error(self, message: str) -> bytes:
        """Return an error as the last event.

        Raises:
            ApiError: nothing was sent so far, so that the error can be the whole answer.
        """
        self._closed = True
        if not self._begun:
            raise errors.upstream_error(message)
        return b"event: error\ndata: %b\n\n" % error_forms.anthropic(FAULT, message)


class _Tool:
    """A tool call whose pieces arrive."""

    __slots__ = ("id", "name", "text")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: str | None = None
        self.text = ""


def _event(kind: str, **fields: Any) -> bytes:
    """Return an event of Anthropic's stream."""
    data = msgspec.json.encode({"type": kind, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
