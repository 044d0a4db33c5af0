"""Which answers are kept, for whom, and for how long."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.features.response_cache import (
    CHAT,
    OVERHEAD_BYTES,
    TEXT,
    Cache,
    Collector,
    Hit,
    Miss,
)

ASK = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hi"}]}
ANSWER = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"content":"yes"}}]}'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = CHUNK * 3 + LAST + DONE


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def look(cache: Cache, body: object, **other: Any) -> Hit | Miss | None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    ask = {"path": CHAT, "model": "m", "revision": "r1", "principal": "k1", "stream": False}
    return cache.lookup(raw, **{**ask, **other})


def keep(cache: Cache, body: object, answer: bytes = ANSWER, **other: Any) -> bool:
    miss = look(cache, body, **other)
    assert isinstance(miss, Miss)
    collector = Collector(cache, miss)
    assert collector.feed(answer) is answer
    assert collector.finish() == b""
    return isinstance(look(cache, body, **other), Hit)


def test_an_answer_comes_again_byte_for_byte() -> None:
    cache = Cache(10_000, 60)

    assert keep(cache, ASK)
    assert look(cache, ASK) == Hit(ANSWER)
    assert look(cache, dict(reversed(ASK.items()))) == Hit(ANSWER)
    assert look(cache, json.dumps(ASK, indent=3).encode()) == Hit(ANSWER)
    assert look(cache, {**ASK, "user": "u", "metadata": {"a": 1}}) == Hit(ANSWER)


@pytest.mark.parametrize(
    "other",
    [
        {"path": TEXT},
        {"model": "m2"},
        {"revision": "r2"},
        {"principal": "k2"},
        {"stream": True},
    ],
)
def test_another_path_model_revision_principal_or_form_misses(other: dict[str, Any]) -> None:
    cache = Cache(10_000, 60)
    keep(cache, ASK)

    assert isinstance(look(cache, ASK, **other), Miss)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["max_tokens", "seed", "top_p", "stop", "model", "logprobs", "new"]),
        st.integers(0, 3) | st.text(max_size=3) | st.none(),
        min_size=1,
    )
)
def test_any_other_field_misses(change: dict[str, Any]) -> None:
    cache = Cache(10_000, 60)
    keep(cache, ASK)
    asked = {**ASK, **change}

    assert isinstance(look(cache, asked), Hit if asked == ASK else Miss)


def test_fields_cannot_be_shifted_into_each_other() -> None:
    cache = Cache(10_000, 60)
    keep(cache, ASK, model="a", revision='b","c')

    assert isinstance(look(cache, ASK, model='a","b', revision="c"), Miss)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.1},
        {"temperature": None},
        {"temperature": False},
        {"temperature": "0"},
        {"n": 2},
        {"n": [1]},
        {"best_of": 3},
        {"tools": [{"type": "function"}]},
        {"functions": [{}]},
        {"store": True},
        {"web_search_options": {"a": 1}},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": "file:///b"}]}]},
        {"messages": [{"content": [{"type": "video_url", "video_url": {"url": "data:"}}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": ["data:"]}}]}]},
    ],
)
def test_what_is_not_certain_is_not_kept(change: dict[str, Any]) -> None:
    assert look(Cache(10_000, 60), {**ASK, **change}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"n": 1},
        {"n": None},
        {"tools": []},
        {"messages": [{"content": [{"type": "text", "text": "a"}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:a"}}]}]},
    ],
)
def test_what_is_certain_is_kept(change: dict[str, Any]) -> None:
    assert isinstance(look(Cache(10_000, 60), {**ASK, **change}), Miss)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[]}',
        b'"temperature"',
        b'{"temperature":0',
        b'{"temperature":0,"a":"\xff"}',
        b'{"temperature":0,"a":1e999}',
        b'{"temperature":0,"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'["temperature",0]',
    ],
)
def test_what_cannot_be_read_is_not_kept(body: bytes) -> None:
    assert look(Cache(10_000, 60), body) is None


def test_messages_that_are_no_list_break_nothing() -> None:
    for messages in (5, "a", {"a": 1}, [1, None], [{"content": 5}]):
        assert isinstance(look(Cache(9_000, 60), {**ASK, "messages": messages}), Miss)


def test_an_unknown_revision_is_not_kept() -> None:
    assert look(Cache(10_000, 60), ASK, revision="") is None


def test_other_paths_are_not_kept() -> None:
    assert look(Cache(10_000, 60), ASK, path="/v1/responses") is None


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER.replace(b'"stop"', b'"tool_calls"'),
        ANSWER.replace(b'"stop"', b'"content_filter"'),
        ANSWER.replace(b'"stop"', b"null"),
        ANSWER[:-5],
        b'{"error":{"message":"no"}}',
        ANSWER[:-1] + b',"error":{"message":"no"}}',
        b'{"choices":[]}',
        b"",
    ],
)
def test_an_incomplete_answer_is_not_kept(answer: bytes) -> None:
    cache = Cache(10_000, 60)

    assert not keep(cache, ASK, answer)
    assert isinstance(look(cache, ASK), Miss)


@pytest.mark.parametrize(
    "answer",
    [
        CHUNK + LAST,
        CHUNK + DONE,
        CHUNK + b'data: {"error":{"message":"no"}}\n\n' + LAST + DONE,
        CHUNK + CHUNK.replace(b'"index":0', b'"index":1') + LAST + DONE,
        CHUNK + LAST.replace(b"stop", b"tool_calls") + DONE,
        CHUNK + b"data: {cut\n\n" + LAST + DONE,
        DONE,
    ],
)
def test_an_incomplete_stream_is_not_kept(answer: bytes) -> None:
    assert not keep(Cache(10_000, 60), ASK, answer, stream=True)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_is_replayed_as_it_came(cuts: list[int]) -> None:
    cache = Cache(10_000, 60)
    miss = look(cache, ASK, stream=True)
    assert isinstance(miss, Miss)
    collector = Collector(cache, miss)
    for start, end in pairwise([0, *sorted(cuts), len(STREAM)]):
        collector.feed(STREAM[start:end])
    assert isinstance(look(cache, ASK, stream=True), Miss)
    collector.finish()

    assert look(cache, ASK, stream=True) == Hit(STREAM)


def test_a_stream_with_its_report_is_another_stream() -> None:
    cache = Cache(10_000, 60)
    with_report = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    keep(cache, {**ASK, "stream": True}, STREAM, stream=True)

    assert isinstance(look(cache, with_report, stream=True), Miss)
    assert look(cache, {**ASK, "stream": True}, stream=True) == Hit(STREAM)


def test_embeddings_are_kept_where_configured() -> None:
    ask = {"model": "e", "input": "a"}
    cache = Cache(10_000, 60)
    answer = b'{"data":[{"embedding":[1.0]}]}'

    assert keep(cache, ask, answer, path="/v1/embeddings")
    assert look(cache, ask, path="/v1/embeddings") == Hit(answer)
    assert look(Cache(10_000, 60, vectors=False), ask, path="/v1/embeddings") is None
    assert not keep(cache, {"input": "b"}, b'{"data":[]}', path="/v1/embeddings")
    assert keep(cache, {"query": "b"}, b'{"results":[{"index":0}]}', path="/v1/rerank")


def test_an_answer_is_forgotten_in_time() -> None:
    clock = Clock()
    cache = Cache(10_000, 60, clock=clock)
    keep(cache, ASK)
    clock.now = 59.9
    assert look(cache, ASK) == Hit(ANSWER)
    clock.now = 60.1

    assert isinstance(look(cache, ASK), Miss)
    assert cache._entries.currsize == 0


def test_the_one_unused_longest_goes_first() -> None:
    room = 8 * (len(ANSWER) + OVERHEAD_BYTES)
    cache = Cache(room, 60)
    asks = [{**ASK, "seed": i} for i in range(9)]
    for ask in asks[:8]:
        keep(cache, ask)
    look(cache, asks[0])
    keep(cache, asks[8])

    assert [type(look(cache, ask)) for ask in asks[:3]] == [Hit, Miss, Hit]
    assert len(cache._entries) == 8
    assert cache._entries.currsize <= room


def test_an_answer_that_is_too_large_is_let_through_and_not_held() -> None:
    cache = Cache(8_000, 60)
    miss = look(cache, ASK, stream=True)
    assert isinstance(miss, Miss)
    collector = Collector(cache, miss)
    for _ in range(100):
        collector.feed(CHUNK)
    assert collector._chunks == []
    collector.feed(LAST + DONE)
    collector.finish()

    assert cache._entries.currsize == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 900)), max_size=60))
def test_the_bound_holds_whatever_comes(puts: list[tuple[int, int]]) -> None:
    cache = Cache(5_000, 60)
    for seed, size in puts:
        answer = ANSWER[:-1] + b',"x":"' + b"x" * size + b'"}'
        ask = {**ASK, "seed": seed}
        if not isinstance(look(cache, ask), Hit):
            keep(cache, ask, answer)
        assert cache._entries.currsize <= 5_000
