"""The translation of OpenAI answers into Anthropic answers."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import msgspec

from gateway_lite import errors
from gateway_lite.wire import error_forms, tolerant_json
from gateway_lite.wire.sse import WholeBody
from gateway_lite.wire.tolerant_json import UNREADABLE

UNUSABLE = (*UNREADABLE, AttributeError, IndexError, KeyError, TypeError, ValueError)
THOUGHTS = ("reasoning_content", "reasoning")
"""Engines' names for the field that Anthropic calls thinking."""
REASONS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
LONG = re.compile(r"context.{0,40}(length|size|window)", re.IGNORECASE | re.DOTALL)
"""The engines' complaint about a prompt beyond the context."""
BOTH = (
    re.compile(
        r"context length is (?P<context>\d+) tokens.{0,80}\((?P<prompt>\d+) in the \w+, "
        r"(?P<answer>\d+) in the completion\)",
        re.DOTALL,
    ),
    re.compile(
        r"too large: (?P<answer>\d+).{0,80}context length is (?P<context>\d+) tokens and your"
        r" request has (?P<prompt>\d+) input tokens",
        re.DOTALL,
    ),
)
"""Engines' complaint, older vLLM's and llama-cpp-python's, about prompt and ``max_tokens`` together
beyond the context.
"""
SHOWN = 1000
"""Characters of an unreadable error that a client gets."""


def failed(status: int, body: bytes) -> bytes:
    """Return the body of an engine's error in Anthropic's form.

    Args:
        status: HTTP status of the error.
        body: the error in OpenAI's form, or any other.
    """
    try:
        answer = tolerant_json.decode(body)
    except UNREADABLE:
        told = body[:SHOWN].decode(errors="replace") or "the engine failed"
        return error_forms.anthropic(status, told)
    return error_forms.anthropic(status, complaint(answer))


def complaint(answer: Any) -> str:
    """Return the words of an error in OpenAI's form."""
    error = answer.get("error", answer) if type(answer) is dict else answer
    if type(error) is dict:
        error = error.get("message") or error.get("detail") or error
    message = error if type(error) is str else json.dumps(error)
    for form in BOTH:
        found = form.search(message)
        if found is not None:
            # Claude Code reads these words, and asks again with the length that fits.
            sizes = f"{found['prompt']} + {found['answer']} > {found['context']}"
            return f"input length and `max_tokens` exceed context limit: {sizes}: {message}"
    return error_forms.too_long(message) if LONG.search(message) else message


def usage_of(told: Any) -> dict[str, int]:
    """Return an engine's usage report in Anthropic's form, which counts cached tokens apart."""
    details = told.get("prompt_tokens_details") if type(told) is dict else None
    cached = _count(details, "cached_tokens")
    return {
        "input_tokens": max(0, _count(told, "prompt_tokens") - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": _count(told, "completion_tokens"),
    }


def _count(told: Any, name: str) -> int:
    """Return a count of a usage report; 0 without any."""
    found = told.get(name) if type(told) is dict else None
    return found if type(found) is int else 0


def ending(reason: Any, stop: Any, *, tools: bool) -> dict[str, Any]:
    """Return Anthropic's reason for the end of an answer.

    Args:
        reason: OpenAI's reason.
        stop: the stop sequence that vLLM met, a token's number, or None.
        tools: the answer has a tool call.
    """
    # A forced call ends with OpenAI's "stop".
    if tools and reason == "stop":
        reason = "tool_calls"
    if reason == "stop" and type(stop) is str:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": REASONS.get(str(reason), "end_turn"), "stop_sequence": None}


def message_of(model: str, usage: dict[str, int]) -> dict[str, Any]:
    """Return the frame of an answer, without content and end.

    Args:
        model: model name in the client's request.
        usage: usage in Anthropic's form.
    """
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def thoughts_of(said: dict[str, Any]) -> str:
    """Return the thoughts in a message or a delta; empty without any."""
    return next((said[name] for name in THOUGHTS if said.get(name)), "")


def arguments_of(text: Any) -> dict[str, Any]:
    """Return a tool's arguments as an object."""
    try:
        found = tolerant_json.decode((text or "{}").encode())
    except UNREADABLE:
        found = text
    return found if type(found) is dict else {"value": found}


def tool_use(name: str | None, identity: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the block of a tool call.

    Args:
        name: the tool's name.
        identity: the engine's id of the call, or None.
        given: the tool's arguments; empty at the start of a stream.
    """
    identity = identity or f"toolu_{secrets.token_hex(12)}"
    return {"type": "tool_use", "id": identity, "name": name or "", "input": given}


class WholeMessage:
    """The translation of an answer in one piece.

    Args:
        model: model name in the client's request.
    """

    __slots__ = ("_body", "_model")

    def __init__(self, model: str) -> None:
        self._model = model
        self._body = WholeBody("translate")

    def feed(self, data: bytes) -> bytes:
        """Collect a part of the answer.

        Raises:
            ApiError: the answer is larger than any engine makes.
        """
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """Return the answer in Anthropic's form.

        Raises:
            ApiError: the engine's answer has no known form.
        """
        try:
            answer = tolerant_json.decode(self._body.take())
            choice = answer["choices"][0]
            content = _content(choice["message"])
            reason, stop = choice.get("finish_reason"), choice.get("stop_reason")
            tools = any(block["type"] == "tool_use" for block in content)
            made = message_of(self._model, usage_of(answer.get("usage")))
            made |= {"content": content, **ending(reason, stop, tools=tools)}
            return msgspec.json.encode(made)
        except UNUSABLE:
            raise errors.upstream_error("the engine's answer cannot be understood") from None


def _content(said: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks of a message."""
    blocks: list[dict[str, Any]] = []
    thoughts = thoughts_of(said)
    if thoughts:
        blocks.append({"type": "thinking", "thinking": thoughts, "signature": ""})
    text = said.get("content") or said.get("refusal")
    if text:
        blocks.append({"type": "text", "text": text})
    for tool in said.get("tool_calls") or ():
        function = tool["function"]
        given = arguments_of(function.get("arguments"))
        blocks.append(tool_use(function["name"], tool.get("id"), given))
    # Clients read the first block of any answer.
    return blocks or [{"type": "text", "text": ""}]


class TokenCount:
    """The translation of an answer's usage report into a count of the prompt's tokens."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        self._body = WholeBody("translate")

    def feed(self, data: bytes) -> bytes:
        """Collect a part of the answer.

        Raises:
            ApiError: the answer is larger than any engine makes.
        """
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """Return the count in Anthropic's form.

        Raises:
            ApiError: the engine's answer has no usage report.
        """
        try:
            tokens = tolerant_json.decode(self._body.take())["usage"]["prompt_tokens"]
        except UNUSABLE:
            raise errors.upstream_error("the engine's answer tells no number of tokens") from None
        return msgspec.json.encode({"input_tokens": tokens})
