"""What is hidden in answers: events stay events, JSON stays JSON, nothing leaks in between."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from gateway_lite.errors import ApiError
from gateway_lite.features.redact.answers import AnswerRedactor, StreamRedactor
from gateway_lite.features.redact.patterns import BUILTIN, chosen
from gateway_lite.features.redact.text import Finder, rewritten
from gateway_lite.wire import sse

FINDER = Finder(chosen(list(BUILTIN), {}))
DONE = b"data: [DONE]\n\n"
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
SAMPLES = [
    "ann@b.co",
    " 4111 1111 1111 1111",
    "+49 30 901820",
    " and",
    "\n",
    '"',
    "é",
    "DE89 3704 ",
]
TEXTS = st.lists(st.sampled_from(SAMPLES) | st.text(max_size=5), max_size=8).map("".join)


def event(choice: dict[str, Any], **more: Any) -> bytes:
    chunk = {**HEAD, "choices": [choice], **more}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def delta(index: int = 0, end: str | None = None, **said: Any) -> bytes:
    return event({"index": index, "delta": said, "finish_reason": end}, usage=None)


def run(stream: bytes, cuts: list[int]) -> bytes:
    editor = StreamRedactor(FINDER)
    edges = [0, *sorted(cuts), len(stream)]
    return b"".join(editor.feed(stream[a:b]) for a, b in pairwise(edges)) + editor.finish()


def chunks(stream: bytes) -> list[dict[str, Any]]:
    parts = [p for p in stream.split(b"\n\n") if p.startswith(b"data: {")]
    return [json.loads(p[6:]) for p in parts]


def said(stream: bytes, name: str, index: int = 0) -> str:
    choices = [c for chunk in chunks(stream) for c in chunk["choices"] if c["index"] == index]
    return "".join(c.get("delta", c).get(name) or "" for c in choices)


def pieces(text: str, data: st.DataObject) -> list[str]:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    return [text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)])]


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS, st.data())
def test_the_deltas_of_each_choice_make_up_the_hidden_text(
    one: str, two: str, data: st.DataObject
) -> None:
    both = [[delta(0, content=p) for p in pieces(one, data)]]
    both += [[delta(1, reasoning_content=p) for p in pieces(two, data)]]
    events = []
    while any(both):
        turn = both[data.draw(st.integers(0, 1))] or both[0] or both[1]
        events.append(turn.pop(0))
    stream = b"".join(events) + delta(0, end="stop") + delta(1, end="length") + DONE
    out = run(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))

    assert said(out, "content") == FINDER.whole(one)
    assert said(out, "reasoning_content", 1) == FINDER.whole(two)
    assert out.endswith(delta(1, end="length") + DONE)
    for chunk in chunks(out):
        ChatCompletionChunk.model_validate(chunk)
    ends = [
        c["finish_reason"] for chunk in chunks(out) for c in chunk["choices"] if c["index"] == 0
    ]
    assert ends[-1] == "stop"
    assert not any(ends[:-1])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(TEXTS, TEXTS, max_size=3), st.data())
def test_arguments_of_tools_stay_json(arguments: dict[str, str], data: st.DataObject) -> None:
    text = json.dumps(arguments)
    first = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    events = [delta(role="assistant", content=None), delta(tool_calls=[first])]
    events += [
        delta(tool_calls=[{"index": 0, "function": {"arguments": p}}]) for p in pieces(text, data)
    ]
    out = run(b"".join(events) + delta(end="tool_calls") + DONE, [])
    calls = [t for c in chunks(out) for t in c["choices"][0]["delta"].get("tool_calls") or ()]
    whole = "".join(t["function"]["arguments"] for t in calls)

    assert json.loads(whole) == json.loads(rewritten(FINDER, text))
    assert calls[0]["function"]["name"] == "f"


def test_completions_and_tails_of_arguments_are_flushed_in_their_form() -> None:
    first = event({"index": 0, "text": "hi ann@", "finish_reason": None})
    last = event({"index": 0, "text": "", "finish_reason": "stop"})
    out = chunks(run(first + last + DONE, []))
    assert [c["choices"][0]["text"] for c in out] == ["hi ", "ann@", ""]

    number = delta(tool_calls=[{"index": 2, "function": {"arguments": "12"}}])
    out = chunks(run(number + delta(end="tool_calls") + DONE, []))
    call = {"index": 2, "function": {"arguments": "12"}}
    assert out[1]["choices"][0]["delta"] == {"tool_calls": [call]}
    assert out[1]["id"] == "c1"
    old = delta(function_call={"arguments": "12"})
    out = chunks(run(old, []))
    assert out[1]["choices"][0]["delta"] == {"function_call": {"arguments": "12"}}


def test_a_stream_without_findings_is_the_same_bytes() -> None:
    stream = (
        b": ping\n\n" + delta(role="assistant") + delta(content="hi, ") + delta(content="you. ")
    )
    stream += delta(end="stop") + DONE
    assert run(stream, []) == stream


def test_a_chunk_with_the_end_and_the_last_words_keeps_their_order() -> None:
    out = run(delta(content="to an") + delta(content="n@b.co or lee@", end="stop") + DONE, [])

    assert [c["choices"][0]["delta"]["content"] for c in chunks(out)] == ["to ", "[EMAIL] or lee@"]


def test_nothing_of_an_address_leaves_before_its_end() -> None:
    editor = StreamRedactor(FINDER)
    out = b"".join(editor.feed(delta(content=c)) for c in "to ann.lee@b.co")

    assert said(out, "content") == "to "
    assert said(editor.feed(delta(content="!")), "content") == "[EMAIL]!"


def test_a_stream_that_is_cut_says_nothing_more() -> None:
    editor = StreamRedactor(FINDER)
    out = editor.feed(delta(content="to ann.lee@b"))
    out += editor.feed(b'data: {"choices":[{"delta":{"content":"ann@b.co')

    assert b"ann" not in out
    assert b"ann@b.co" not in editor.finish()


def test_log_probabilities_do_not_spell_the_text() -> None:
    tokens = {"content": [{"token": "ann@b.co", "logprob": -1, "bytes": [97]}]}
    choice = {"index": 0, "delta": {"content": "x "}, "logprobs": tokens}
    (out,) = chunks(run(event(choice), []))
    assert out["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (b'data: {"error":{"message":"no ann@b.co"}}\n\n', b"no [EMAIL]"),
        (b"data: not json ann@b.co\n\n", b"data: not json [EMAIL]\n\n"),
        (b'data: ["ann@b.co"]\n\n', b"[EMAIL]"),
        (b'data: {"choices":[7,{"index":0,"delta":"x"},{"index":0}]}\n\n', b"choices"),
        (
            b'data: {"choices":[{"index":0,"delta":{"content":[{"text":"ann@b.co"}]}}]}\n\n',
            b"[EMAIL]",
        ),
        (b'data: {"choices":[{"delta":{"tool_calls":[3,{"function":4}]}}]}\n\n', b"tool_calls"),
    ],
)
def test_other_events_are_looked_through(given: bytes, wanted: bytes) -> None:
    out = run(given, [])

    assert wanted in out
    assert b"ann@b.co" not in out


def test_responses_are_looked_through() -> None:
    place = {"item_id": "i", "output_index": 0, "content_index": 0}

    def named(kind: str, **more: Any) -> bytes:
        body = json.dumps({"type": kind, **place, **more}).encode()
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"

    kind = "response.output_text"
    stream = b"".join(
        named(f"{kind}.delta", delta=piece, logprobs=[{"token": piece}])
        for piece in ("to an", "n@b.co", " or l", "ee@b.co")
    )
    stream += named(f"{kind}.done", text="to ann@b.co or lee@b.co")
    stream += named("response.completed", response={"output": [{"text": "ann@b.co"}]})
    out = run(stream, [])
    got = chunks(out.replace(b"\ndata: ", b"\n\ndata: "))

    assert b"nn@b" not in out
    assert b"ee@b" not in out
    assert "".join(c.get("delta", "") for c in got) == "to [EMAIL] or [EMAIL]"
    assert [c["type"] for c in got][-2:] == [f"{kind}.done", "response.completed"]
    assert got[-2]["text"] == "to [EMAIL] or [EMAIL]"
    assert out.count(b"event: ") == out.count(b"data: ")


def unary(body: bytes) -> bytes:
    editor = AnswerRedactor(FINDER)
    assert editor.feed(body[:5]) == b""
    assert editor.feed(body[5:]) == b""
    return editor.finish()


def test_a_whole_answer() -> None:
    message = {
        "role": "assistant",
        "content": "ann@b.co",
        "tool_calls": [
            {"id": "t", "function": {"name": "f", "arguments": '{"n":4111111111111111}'}}
        ],
    }
    tokens = {"content": [{"token": "ann@b.co"}]}
    answer = {**HEAD, "choices": [{"index": 0, "message": message, "logprobs": tokens}]}
    made = json.loads(unary(json.dumps(answer).encode()))["choices"][0]

    assert made["message"]["content"] == "[EMAIL]"
    assert made["message"]["tool_calls"][0]["function"]["arguments"] == '{"n":"[CARD]"}'
    assert made["logprobs"] is None


def test_an_answer_without_findings_is_the_same_bytes() -> None:
    body = b'{ "choices":[ {"message":{"content":"hi"}, "logprobs":null} ], "usage":{"a":1} }'
    assert unary(body) == body
    assert unary(b"no json but ann@b.co \xff") == "no json but [EMAIL] \ufffd".encode()


def test_an_answer_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MOST_BYTES", 100)
    editor = AnswerRedactor(FINDER)
    editor.feed(b"x" * 100)
    with pytest.raises(ApiError, match="too large"):
        editor.feed(b"x")


def test_half_a_character_hides_nothing_from_the_search() -> None:
    text = "\ud83d to ann\\u0040b.co"
    raw = json.dumps({"choices": [{"message": {"content": text}}]}).replace("\\\\u", "\\u")
    whole = AnswerRedactor(FINDER)
    whole.feed(raw.encode())
    pieces = [
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % part
        for part in (b"\\ud83d to ann", b"@b.", b"co\\udc00")
    ]

    assert b"b.co" not in whole.finish()
    assert "ann" not in said(run(b"".join(pieces) + DONE, []), "content")
