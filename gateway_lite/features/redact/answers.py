"""Redaction of answers: JSON as a whole, event streams piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway_lite import errors
from gateway_lite.features.redact.text import UNREADABLE, Arguments, StreamingText, hide
from gateway_lite.wire import tolerant_json
from gateway_lite.wire.sse import Events, WholeBody, payload, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway_lite.features.redact.text import Finder

DONE = b"[DONE]"
ANSWER_S = 0.04
"""Seconds to search an answer or a piece of a stream, in the event loop: 8 MiB of prose."""
WORDS = ("content", "reasoning_content", "reasoning", "refusal", "text")
"""Fields of a choice, or of its delta, that are pieces of a text."""
Key = tuple[object, ...]


class AnswerRedactor:
    """The redaction of an answer in one piece.

    Args:
        finder: the search.
    """

    __slots__ = ("_body", "_finder")

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._body = WholeBody("redact")

    def feed(self, data: bytes) -> bytes:
        """Collect a part of the answer; nothing is passed on before the end.

        Raises:
            ApiError: the answer is larger than any engine makes.
        """
        self._body.add(data)
        return b""

    def finish(self) -> bytes:
        """Return the redacted answer; the same bytes if nothing is hidden."""
        body, finder = self._body.take(), self._finder.within(ANSWER_S)
        try:
            answer = tolerant_json.decode(body)
            made = hide(_without_tokens(answer), finder)
            return body if made is answer else msgspec.json.encode(made)
        except UNREADABLE:
            return finder.whole(body.decode(errors="replace")).encode()
        except TimeoutError:
            raise _too_slow() from None


class StreamRedactor:
    """The redaction of an event stream; holds back only text that may become part of a match.

    The deltas of each choice, field and tool form a text of their own. Log probabilities are left
    out, as they spell the text again.

    Args:
        finder: the search.
    """

    __slots__ = ("_events", "_finder", "_flows", "_heads")

    def __init__(self, finder: Finder) -> None:
        self._finder = finder.within(ANSWER_S)
        self._events = Events()
        self._flows: dict[Key, StreamingText | Arguments] = {}
        self._heads: dict[object, dict[str, Any]] = {}

    def feed(self, data: bytes) -> bytes:
        """Return the complete events, with the final part of their texts.

        Raises:
            ApiError: the search takes too long, so the text must not be passed on.
        """
        self._finder.renew(ANSWER_S)
        try:
            return b"".join(map(self._event, self._events.feed(data)))
        except TimeoutError:
            raise _too_slow() from None

    def finish(self) -> bytes:
        """Return the rest.

        Raises:
            ApiError: the search takes too long.
        """
        self._finder.renew(ANSWER_S)
        rest = self._events.rest()
        try:
            return (self._event(rest) if rest else b"") + self._flush()
        except TimeoutError:
            raise _too_slow() from None

    def _event(self, event: bytes) -> bytes:
        """Return an event after redaction."""
        data = payload(event)
        if not data:
            return event
        if data == DONE:
            return self._flush() + event
        try:
            chunk = tolerant_json.decode(data)
            if type(chunk) is not dict:
                chunk = {"data": chunk}
        except UNREADABLE:
            return self._finder.whole(event.decode(errors="replace")).encode()
        if type(chunk.get("choices")) is list:
            return self._chunk(event, chunk)
        if type(chunk.get("delta")) is str and type(chunk.get("type")) is str:
            return self._delta(event, chunk)
        return self._other(event, chunk)

    def _chunk(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        """Return a chunk of a chat or of a completion after redaction."""
        before = b""
        changed = False
        for choice in chunk["choices"]:
            if type(choice) is not dict:
                continue
            index = choice.get("index", 0)
            if index not in self._heads:
                self._heads[index] = _head(chunk, choice)
            changed |= self._choice(index, choice)
            if choice.get("finish_reason") is not None:
                before += self._flush(index)  # held text of fields without a piece in this chunk
        return before + (replaced(event, msgspec.json.encode(chunk)) if changed else event)

    def _choice(self, index: object, choice: dict[str, Any]) -> bool:
        """Redact a choice in place, and return whether the choice changed."""
        changed = choice.get("logprobs") is not None
        if changed:
            choice["logprobs"] = None
        last = choice.get("finish_reason") is not None
        for key, place, name in _texts(index, choice.get("delta", choice)):
            value = place[name]
            if type(value) is not str:
                place[name] = hide(value, self._finder, name)
            elif value:
                place[name] = self._flow(key).feed(value)
                place[name] += self._flows.pop(key).finish() if last else ""
            changed |= place[name] != value
        return changed

    def _flow(self, key: Key) -> StreamingText | Arguments:
        """Return the text to which a piece belongs, a new text if needed."""
        flow = self._flows.get(key)
        if flow is None:
            flow = (Arguments if "arguments" in str(key[1]) else StreamingText)(self._finder)
            self._flows[key] = flow
        return flow

    def _flush(self, *index: object) -> bytes:
        """Return events with the held text of one choice or of all."""
        out = []
        for key in list(self._flows):
            if index and key[0] != index[0]:
                continue
            text = self._flows.pop(key).finish()
            if text:
                out.append(_last(self._heads[key[0]], key, text))
        return b"".join(out)

    def _delta(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        """Return a text delta of the responses API after redaction."""
        index = _responses_index(chunk)
        value = chunk["delta"]
        self._heads.setdefault(index, {**chunk, "logprobs": []} if "logprobs" in chunk else chunk)
        made = self._flow((index, chunk["type"])).feed(value)
        if made == value and not chunk.get("logprobs"):
            return event
        return replaced(event, msgspec.json.encode({**_without_tokens(chunk), "delta": made}))

    def _other(self, event: bytes, chunk: dict[str, Any]) -> bytes:
        """Return an event of any other type after redaction; each string is a whole text."""
        kind = chunk.get("type")
        before = b""
        if type(kind) is str and kind.endswith(".done"):
            before = self._flush(_responses_index({**chunk, "type": kind[:-4] + "delta"}))
        elif kind in {"response.completed", "response.incomplete", "response.failed"}:
            before = self._flush()
        made = hide(_without_tokens(chunk), self._finder)
        return before + (event if made is chunk else replaced(event, msgspec.json.encode(made)))


def _too_slow() -> errors.ApiError:
    return errors.upstream_error(
        "the answer holds too much text that looks like data to be redacted"
    )


def _texts(index: object, node: Any) -> Iterator[tuple[Key, dict[str, Any], str]]:
    """Yield the pieces of text in a delta: key of the text, containing object, field name."""
    if type(node) is not dict:
        return
    for name in WORDS:
        if node.get(name) is not None:
            yield (index, name), node, name
    call = node.get("function_call")
    if type(call) is dict and "arguments" in call:
        yield (index, "function_call.arguments"), call, "arguments"
    for tool in node.get("tool_calls") or ():
        for part, name in (("function", "arguments"), ("custom", "input")):
            call = tool.get(part) if type(tool) is dict else None
            if type(call) is dict and call.get(name) is not None:
                yield (index, f"tool_calls.{part}.{name}", tool.get("index", 0)), call, name


def _head(chunk: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """Return the common part of further chunks of a choice."""
    kept = {k: v for k, v in chunk.items() if k not in {"choices", "usage"}}
    form: dict[str, Any] = {"delta": {}} if "delta" in choice else {}
    return {**kept, "choices": [{"index": choice.get("index", 0), **form, "finish_reason": None}]}


def _last(head: dict[str, Any], key: Key, text: str) -> bytes:
    """Return an event with the last piece of a text."""
    if "choices" not in head:
        named = b"event: " + str(head["type"]).encode()
        return replaced(named, msgspec.json.encode({**head, "delta": text}))
    name, *index = key[1:]
    part, _, field = str(name).removeprefix("tool_calls.").rpartition(".")
    said: dict[str, Any] = {field: text}
    if part:
        said = {part: said}
    if index:
        said = {"tool_calls": [{"index": index[0], **said}]}
    choice = head["choices"][0]
    made = {**choice, "delta": said} if "delta" in choice else {**choice, **said}
    return replaced(b"data:", msgspec.json.encode({**head, "choices": [made]}))


def _responses_index(chunk: dict[str, Any]) -> str:
    """Return the identity of the text to which a responses event belongs."""
    names = ("type", "item_id", "output_index", "content_index", "summary_index")
    return repr([chunk.get(name) for name in names])


def _without_tokens(value: Any) -> Any:
    """Return an answer without log probabilities, which would spell the hidden text."""
    if type(value) is list:
        made = [_without_tokens(item) for item in value]
        return value if all(a is b for a, b in zip(made, value, strict=True)) else made
    if type(value) is not dict:
        return value
    kept = {k: _bare(v) if k == "logprobs" else _without_tokens(v) for k, v in value.items()}
    return value if all(kept[k] is v for k, v in value.items()) else kept


def _bare(tokens: Any) -> Any:
    """Return empty log probabilities of the same type."""
    return ([] if type(tokens) is list else None) if tokens else tokens
