"""The translation of OpenAI answers into Ollama answers."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any

import msgspec

from gateway_lite import errors
from gateway_lite.wire import tolerant_json
from gateway_lite.wire.error_forms import ollama as told
from gateway_lite.wire.sse import Events, WholeBody, payload
from gateway_lite.wire.tolerant_json import UNREADABLE

DONE = b"[DONE]"
INCOMPREHENSIBLE = "the engine's answer cannot be understood"
THOUGHTS = ("reasoning_content", "reasoning")
"""Engines' names for the field that Ollama calls thinking."""


def failed(body: bytes) -> bytes:
    """Return the body of an OpenAI error in Ollama's form."""
    try:
        answer = tolerant_json.decode(body)
    except UNREADABLE:
        return told(body[:1000].decode(errors="replace") or "the engine failed")
    error = answer.get("error", answer) if type(answer) is dict else answer
    if type(error) is dict:
        error = error.get("message") or error.get("detail") or error
    return told(error if type(error) is str else json.dumps(error))


class Clock:
    """The times of a request: arrival, and first word of the answer.

    Args:
        model: model name in the client's request.
        thoughts: False for a client that wants no thoughts, whatever the engine sends.
    """

    __slots__ = ("_began", "_first", "model", "thoughts")

    def __init__(self, model: str, *, thoughts: bool = True) -> None:
        self.model = model
        self.thoughts = thoughts
        self._began = time.monotonic_ns()
        self._first = 0

    def line(self, **said: Any) -> dict[str, Any]:
        """Return an answer, or a part of an answer, with model and date."""
        if not self._first:
            self._first = time.monotonic_ns()
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        return {"model": self.model, "created_at": now, **said}

    def end(self, reason: str | None, usage: Any) -> dict[str, Any]:
        """Return the additional fields of the last part of an answer."""
        now = time.monotonic_ns()
        first = self._first or now
        counts = usage if type(usage) is dict else {}
        return {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": now - self._began,
            "load_duration": 0,
            "prompt_eval_count": counts.get("prompt_tokens") or 0,
            "prompt_eval_duration": first - self._began,
            "eval_count": counts.get("completion_tokens") or 0,
            "eval_duration": now - first,
        }


class Whole:
    """The translation of an answer in one piece: a chat, a text, or embeddings.

    Args:
        clock: times and model of the request.
        form: "chat", "generate", "embed" or "embeddings".
    """

    __slots__ = ("_body", "_clock", "_form")

    def __init__(self, clock: Clock, form: str) -> None:
        self._clock = clock
        self._form = form
        self._body = WholeBody("translate")

    def feed(self, data: bytes) -> bytes:
        """Collect a part of the answer.

        Raises:
            ApiError: the answer is larger than any engine makes.
        """
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """Return the answer in Ollama's form.

        Raises:
            ApiError: the answer is none of OpenAI's.
        """
        body = self._body.take()
        try:
            answer = tolerant_json.decode(body)
            return msgspec.json.encode(self._made(answer))
        except (*UNREADABLE, AttributeError, IndexError, KeyError, TypeError):
            raise errors.upstream_error(INCOMPREHENSIBLE) from None

    def _made(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return an answer in Ollama's form."""
        usage = answer.get("usage")
        if self._form in {"embed", "embeddings"}:
            rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
            vectors = [row["embedding"] for row in rows]
            if self._form == "embeddings":
                return {"embedding": vectors[0]}
            end = self._clock.end(None, usage)
            kept = ("total_duration", "load_duration", "prompt_eval_count")
            said = {name: end[name] for name in kept}
            return {"model": self._clock.model, "embeddings": vectors, **said}
        choice = answer["choices"][0]
        message = choice.get("message") or choice
        said = spoken(message, self._form, thoughts=self._clock.thoughts)
        tools = called(choice.get("message", {}).get("tool_calls"))
        if tools:
            said["message"]["tool_calls"] = tools
        said.update(spelled(choice.get("logprobs")))
        return self._clock.line(**said) | self._clock.end(choice.get("finish_reason"), usage)


class Lines:
    """The translation of a stream: OpenAI's events into lines of JSON.

    Args:
        clock: times and model of the request.
        form: "chat" or "generate".
    """

    __slots__ = ("_clock", "_closed", "_events", "_form", "_reason", "_tools", "_usage")

    def __init__(self, clock: Clock, form: str) -> None:
        self._clock = clock
        self._form = form
        self._events = Events()
        self._tools: dict[Any, dict[str, Any]] = {}
        self._reason: str | None = None
        self._usage: Any = None
        self._closed = False

    def feed(self, data: bytes) -> bytes:
        """Return the lines for the complete events."""
        return b"".join(map(self._line, self._events.feed(data)))

    def finish(self) -> bytes:
        """Return the last line; a stream that broke off ends with an error line."""
        made = self._line(self._events.rest())
        if self._closed:
            return made
        if self._reason is None:
            return made + self._error("the engine's stream ended early")
        return made + self._end()

    def _line(self, event: bytes) -> bytes:
        """Return the line for one event."""
        data = payload(event)
        if self._closed or not data:
            return b""
        if data == DONE:
            return self._end() if self._reason is not None else b""
        try:
            chunk = tolerant_json.decode(data)
            return self._chunk(chunk)
        except (*UNREADABLE, AttributeError, IndexError, KeyError, TypeError):
            return self._error("the engine's stream cannot be understood")

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the line for a chunk, or nothing for a chunk without text."""
        if chunk.get("error") is not None:
            error = chunk["error"]
            said = error.get("message") if type(error) is dict else error
            return self._error(str(said))
        self._usage = chunk.get("usage") or self._usage
        if not chunk["choices"]:
            return b""
        choice = chunk["choices"][0]
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or choice
        for tool in delta.get("tool_calls") or ():
            _gather(self._tools, tool)
        said = spoken(delta, self._form, thoughts=self._clock.thoughts)
        text = said["response"] if self._form == "generate" else said["message"]["content"]
        spoke = text or "thinking" in said.get("message", said)
        if not spoke:
            return b""
        said.update(spelled(choice.get("logprobs")))
        return msgspec.json.encode(self._clock.line(**said, done=False)) + b"\n"

    def _end(self) -> bytes:
        """Return the last lines."""
        self._closed = True
        out = b""
        # Ollama sends a tool call as a whole, so its pieces wait for the end of the stream.
        tools = called([self._tools[index] for index in sorted(self._tools)])
        if tools:
            message = {"role": "assistant", "content": "", "tool_calls": tools}
            out = msgspec.json.encode(self._clock.line(message=message, done=False)) + b"\n"
        last = self._clock.line(**spoken({}, self._form)) | self._clock.end(
            self._reason, self._usage
        )
        return out + msgspec.json.encode(last) + b"\n"

    def _error(self, message: str) -> bytes:
        """Return an error as the last line."""
        self._closed = True
        return told(message) + b"\n"


def spoken(said: dict[str, Any], form: str, *, thoughts: bool = True) -> dict[str, Any]:
    """Return the text of a message, a delta or a completion in Ollama's form."""
    text = said.get("content") or said.get("text") or ""
    thought = next((said[name] for name in THOUGHTS if said.get(name)), None)
    more = {"thinking": thought} if thought and thoughts else {}
    if form == "generate":
        return {"response": text, **more}
    return {"message": {"role": "assistant", "content": text, **more}}


def called(tools: Any) -> list[dict[str, Any]]:
    """Return tool calls in Ollama's form: the arguments as an object, not as JSON text."""
    made = []
    for tool in tools or ():
        function = tool["function"]
        try:
            arguments = tolerant_json.decode((function.get("arguments") or "{}").encode())
        except UNREADABLE:
            arguments = function["arguments"]
        if type(arguments) is not dict:
            arguments = {"value": arguments}
        named = {"id": tool["id"]} if tool.get("id") else {}
        made.append({**named, "function": {"name": function["name"], "arguments": arguments}})
    return made


def spelled(logprobs: Any) -> dict[str, Any]:
    """Return log probabilities in Ollama's form, or no field."""
    tokens = logprobs.get("content") if type(logprobs) is dict else None
    return {"logprobs": tokens} if tokens else {}


def _gather(tools: dict[Any, dict[str, Any]], part: dict[str, Any]) -> None:
    """Add a part of a tool call to the collected calls."""
    function = part.get("function") or {}
    known = tools.setdefault(
        part.get("index", 0), {"id": None, "function": {"name": "", "arguments": ""}}
    )
    known["id"] = known["id"] or part.get("id")
    for name in ("name", "arguments"):
        known["function"][name] += function.get(name) or ""
