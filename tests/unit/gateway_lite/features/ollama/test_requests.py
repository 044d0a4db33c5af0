"""What Ollama's clients ask, and what engines answer, in each other's words."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import ollama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.api.ollama import Listed, tags
from gateway_lite.errors import ApiError
from gateway_lite.features.ollama.answers import Clock, Lines, Whole, failed
from gateway_lite.features.ollama.requests import PATHS, translate
from gateway_lite.wire import error_forms

ASK: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def chunk(**said: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **said}]}).encode() + b"\n\n"


def test_a_stream_is_what_is_asked_for_by_default() -> None:
    body: dict[str, Any] = {"model": "m", "messages": ASK}
    assert json.loads(translate("/api/chat", json.dumps(body).encode()).body)["stream"] is True
    body["stream"] = None
    assert json.loads(translate("/api/chat", json.dumps(body).encode()).body)["stream"] is True


def test_a_model_of_another_revision_has_another_digest() -> None:
    one, two = (json.loads(tags([Listed("m", 0, r)]))["models"][0]["digest"] for r in "ab")
    assert one != two


def test_log_probabilities_come_back() -> None:
    tokens = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    choice = {"message": {"content": "a"}, "finish_reason": "stop", "logprobs": tokens}
    editor = Whole(Clock("m"), "chat")
    editor.feed(json.dumps({"choices": [choice]}).encode())
    answer = ollama.ChatResponse.model_validate_json(editor.finish())
    assert answer.logprobs
    assert answer.logprobs[0].logprob == -0.5


@settings(deadline=None)
@given(st.lists(st.integers(0, 2000), max_size=20), st.text(max_size=30))
def test_lines_are_the_same_however_events_are_cut(cuts: list[int], text: str) -> None:
    data = b"".join(chunk(delta={"content": text[i : i + 3]}) for i in range(0, len(text), 3))
    data += chunk(delta={}, finish_reason="stop")
    data += b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\ndata: [DONE]\n\n'
    editor = Lines(Clock("m"), "chat")
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    out = b"".join(editor.feed(data[a:b]) for a, b in pairwise(edges)) + editor.finish()
    lines = [json.loads(line) for line in out.split(b"\n") if line]

    assert "".join(line["message"]["content"] for line in lines) == text
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ended early"),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "ended early"),
        (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n', "ended early"),
        (b"data: {no\n\n", "cannot be understood"),
        (b"data: {}\n\n", "cannot be understood"),
        (b"data: 3\n\n", "cannot be understood"),
        (b'data: {"error":"flat"}\n\n', "flat"),
    ],
)
def test_a_stream_that_is_not_whole_ends_with_an_error(data: bytes, said: str) -> None:
    editor = Lines(Clock("m"), "chat")
    lines = (editor.feed(data) + editor.finish()).splitlines()

    assert said in json.loads(lines[-1])["error"]
    assert sum(b'"done":true' in line for line in lines) == 0


def test_a_stream_without_done_but_with_its_end_is_whole() -> None:
    editor = Lines(Clock("m"), "generate")
    out = editor.feed(b'data: {"choices":[{"text":"a","finish_reason":"stop"}]}\n\n')
    assert json.loads(out)["response"] == "a"
    assert json.loads(editor.finish())["done"] is True


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model":""}', b'{"model":3}', b"\xff"])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_request_is_refused(path: str, body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        translate(path, body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [3]},
        {"messages": [{}]},
        {"messages": "hi"},
        {"messages": 3},
        {"options": [1], "messages": ASK},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "images": [3]}]},
    ],
)
def test_what_chat_does_not_take_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="not have the form of /api/chat"):
        translate("/api/chat", json.dumps({"model": "m", **more}).encode())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"error":"flat"}', "flat"),
        (b'{"detail":"fast"}', "fast"),
        (b'"text"', "text"),
        (b"", "the engine failed"),
        (b"<html>", "<html>"),
        (b'{"a":1}', '{"a": 1}'),
    ],
)
def test_errors_in_any_form(body: bytes, said: str) -> None:
    assert json.loads(failed(body)) == {"error": said}
    assert json.loads(error_forms.ollama(said)) == {"error": said}


def test_an_answer_that_is_none_is_an_error() -> None:
    for body in (b"", b"{}", b"[]", b'{"choices":[]}', b'{"choices":[{"message":3}]}'):
        editor = Whole(Clock("m"), "chat")
        editor.feed(body)
        with pytest.raises(ApiError, match="cannot be understood") as caught:
            editor.finish()
        assert caught.value.status == 502


HALF = "\ud83d"


def test_half_a_character_spoils_no_other_word_of_an_answer() -> None:
    call = {"id": "t", "function": {"name": "f", "arguments": json.dumps({"a": HALF})}}
    said = {"content": f"one {HALF} two", "reasoning": f"{HALF}hm", "tool_calls": [call]}
    whole = Whole(Clock("m"), "chat")
    whole.feed(json.dumps({"choices": [{"message": said, "finish_reason": "stop"}]}).encode())
    message = ollama.ChatResponse.model_validate_json(whole.finish()).message
    parts = ["one", f" {HALF}", "\ude00 ", "two"]
    data = b"".join(chunk(delta={"content": part}) for part in parts)
    lines = Lines(Clock("m"), "generate")
    out = lines.feed(data + chunk(delta={}, finish_reason="stop") + b"data: [DONE]\n\n")
    answers = [json.loads(line) for line in (out + lines.finish()).splitlines()]

    assert (message.content, message.thinking) == ("one \ufffd two", "\ufffdhm")
    assert message.tool_calls
    assert message.tool_calls[0].function.arguments == {"a": "\ufffd"}
    assert [one.get("response") for one in answers] == ["one", " \ufffd", "\ufffd ", "two", ""]
    assert json.loads(failed(json.dumps({"error": f"no {HALF}"}).encode()))["error"] == "no \ufffd"


def asked(**said: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": ASK, "stream": False, **said}
    made: dict[str, Any] = json.loads(translate("/api/chat", json.dumps(body).encode()).body)
    return made


def test_options_have_the_names_of_each_engine() -> None:
    options = {"repeat_penalty": 1.2, "typical_p": 0.9, "num_keep": 4, "num_ctx": 9, "num_gpu": 1}
    made = asked(options=options)
    wanted = {"repeat_penalty": 1.2, "repetition_penalty": 1.2, "typical_p": 0.9, "n_keep": 4}

    assert made == {"model": "m", "messages": ASK, **wanted}


@pytest.mark.parametrize(
    ("think", "wanted"),
    [
        (None, {}),
        (True, {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
        (
            "low",
            {
                "reasoning_effort": "low",
                "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
            },
        ),
    ],
)
def test_thoughts_are_switched_on_and_off(think: object, wanted: dict[str, Any]) -> None:
    assert asked(think=think) == {"model": "m", "messages": ASK, **wanted}


@pytest.mark.parametrize("think", [1, "yes", {}, []])
def test_another_word_on_thoughts_is_refused(think: object) -> None:
    with pytest.raises(ApiError, match="'think' must be true, false or one of low, medium, high"):
        asked(think=think)


@pytest.mark.parametrize("think", [True, False])
def test_thoughts_come_only_to_who_wants_them(think: bool) -> None:
    body = {"model": "m", "messages": ASK, "think": think}
    whole = translate("/api/chat", json.dumps({**body, "stream": False}).encode()).editor
    message = {"content": "a", "reasoning": "hm"}
    whole.feed(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())
    lines = translate("/api/chat", json.dumps(body).encode()).editor
    out = lines.feed(chunk(delta={"reasoning": "hm"}) + chunk(delta={"content": "a"}))

    assert ("thinking" in json.loads(whole.finish())["message"]) is think
    assert (b"thinking" in out) is think
    assert b'"content":"a"' in out


@pytest.mark.parametrize("form", ["yaml", 3, ["json"], True])
def test_another_format_is_refused(form: object) -> None:
    with pytest.raises(ApiError, match="'format' must be 'json' or a JSON schema"):
        asked(format=form)


def test_a_picture_that_is_a_data_url_stays_one() -> None:
    link = "data:image/jpeg;base64,/9j/4AAQ"
    made = asked(messages=[{"role": "user", "content": "see", "images": [link]}])

    assert made["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": link}}


@pytest.mark.parametrize("said", [{"input": ""}, {"input": []}, {}])
def test_nothing_to_embed_is_an_empty_answer(said: dict[str, Any]) -> None:
    made = translate("/api/embed", json.dumps({"model": "m", **said}).encode())
    old = translate("/api/embeddings", b'{"model": "m", "prompt": ""}')

    assert json.loads(made.answer or b"") == {"model": "m", "embeddings": []}
    assert json.loads(old.answer or b"") == {"embedding": []}
