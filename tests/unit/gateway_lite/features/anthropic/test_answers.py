"""Answers of any form become Anthropic's, or an error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.features.anthropic.answers import TokenCount, WholeMessage, failed
from gateway_lite.features.anthropic.stream import MessageStream

NAMES = st.sampled_from(
    (
        *("choices", "message", "delta", "content", "tool_calls", "function", "name", "arguments"),
        *("index", "id", "finish_reason", "stop_reason", "usage", "prompt_tokens", "error"),
        *("completion_tokens", "prompt_tokens_details", "cached_tokens", "reasoning", "refusal"),
    )
)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just("stop")
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={"delta": VALUES, "message": VALUES, "finish_reason": VALUES, "stop_reason": VALUES},
)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2)}, optional={"usage": VALUES, "error": VALUES}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(CHUNKS | VALUES, max_size=5), st.booleans(), st.integers(1, 40))
def test_a_stream_of_any_form_ends_once(chunks: list[Any], done: bool, cut: int) -> None:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    data = "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()
    stream = MessageStream("m")
    made = b""
    with contextlib.suppress(ApiError):
        for at in range(0, len(data), cut):
            made += stream.feed(data[at : at + cut])
        made += stream.finish()
        events = [event.split(b"\n")[0] for event in made.split(b"\n\n") if event]
        ends = [event for event in events if event in (b"event: error", b"event: message_stop")]
        assert len(ends) == 1
        assert events[-1] == ends[0]
        starts = events.count(b"event: content_block_start")
        assert starts - events.count(b"event: content_block_stop") in {0, int(b"error" in ends[0])}


def test_half_a_character_spoils_no_answer() -> None:
    broken = b'{"choices":[{"%b":{"content":"a\\ud83d b"},"finish_reason":"stop"}]}'
    whole, stream = WholeMessage("m"), MessageStream("m")
    whole.feed(broken % b"message")
    assert "a\ufffd b" in json.loads(whole.finish())["content"][0]["text"]
    made = stream.feed(b"data: " + broken % b"delta" + b"\n\n") + stream.finish()
    assert "a\ufffd b" in made.decode()
    assert b"message_stop" in made


@settings(max_examples=200, deadline=None)
@given(CHUNKS | VALUES)
def test_an_answer_of_any_form_is_translated_or_an_error(answer: Any) -> None:
    data = json.dumps(answer).encode()
    for editor in (WholeMessage("m"), TokenCount()):
        editor.feed(data)
        with contextlib.suppress(ApiError):
            json.loads(editor.finish())
    assert json.loads(failed(400, data))["type"] == "error"
