"""What is read out of a request's body, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.wire import request_body

CHAT = "/v1/chat/completions"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(**body: Any) -> request_body.RequestFields:
    return request_body.read(json.dumps({"model": "m", **body}).encode())


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.text(min_size=1), st.booleans())
def test_whatever_else_stands_in_it_the_model_is_found(
    rest: dict[str, Any], model: str, stream: bool
) -> None:
    body = {**rest, "model": model, "stream": stream}
    asked = request_body.read(json.dumps(body).encode())
    assert (asked.model, asked.stream) == (model, stream)
    assert asked.tokens(10, asked.limit(CHAT)) > 0
    assert all(isinstance(one, bytes) for one in request_body.beginnings(asked, None))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{", None),
        (b"nul", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":{}}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        request_body.read(body)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("path", "body", "limit"),
    [
        (CHAT, {}, None),
        (CHAT, {"max_tokens": 7}, 7),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ("/v1/completions", {"max_tokens": 7, "max_completion_tokens": 9}, 7),
        ("/v1/responses", {"max_output_tokens": 5, "max_tokens": 1}, 5),
        (CHAT, {"max_output_tokens": 5}, None),
        ("/v1/embeddings", {"max_tokens": 5}, None),
        (CHAT, {"n_predict": 5}, 5),
        (CHAT, {"max_tokens": "7"}, None),
        (CHAT, {"max_tokens": True}, None),
        (CHAT, {"max_tokens": -1}, None),
    ],
)
def test_the_limit_of_an_answer(path: str, body: dict[str, Any], limit: int | None) -> None:
    assert read(**body).limit(path) == limit


def test_the_estimate_counts_every_answer() -> None:
    assert read(max_tokens=10, n=3).tokens(100, 10) == 100 + 30
    assert read(n="x").tokens(0, None) == request_body.USUAL_TOKENS


def chat(*contents: tuple[str, Any]) -> request_body.RequestFields:
    return read(messages=[{"role": role, "content": content} for role, content in contents])


def test_turns_of_one_conversation_begin_alike() -> None:
    first = chat(("system", "be brief"), ("user", "hello"))
    later = chat(("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "and?"))
    assert request_body.beginnings(first, None) == request_body.beginnings(later, None)


def test_another_system_prompt_session_or_opening_begins_otherwise() -> None:
    found = [
        request_body.beginnings(chat(("system", "be brief"), ("user", "hello")), None),
        request_body.beginnings(chat(("system", "be verbose"), ("user", "hello")), None),
        request_body.beginnings(chat(("system", "be brief"), ("user", "bye")), None),
        request_body.beginnings(chat(("system", "be brief"), ("user", "hello")), "s"),
    ]
    assert len({prefix for prefix, _ in found}) == len({talk for _, talk in found}) == 4


def test_conversations_with_one_long_system_prompt_share_that_alone() -> None:
    system = ("system", "you are a poet " * 100)
    one, two = chat(system, ("user", "hello")), chat(system, ("user", "bye"))
    (prefix, talk), (other_prefix, other_talk) = (
        request_body.beginnings(it, None) for it in (one, two)
    )
    assert prefix == other_prefix
    assert talk != other_talk
    assert request_body.beginnings(one, "s")[0] != request_body.beginnings(two, "t")[0]


def test_a_prompt_begins_with_so_many_bytes() -> None:
    assert (
        len(request_body.beginnings(read(prompt="x" * 100_000), None)[0])
        == request_body.SYSTEM_BYTES
    )
    long = chat(("user", "x" * 100_000))
    assert [len(one) for one in request_body.beginnings(long, None)] == [
        request_body.FIRST_BYTES
    ] * 2
