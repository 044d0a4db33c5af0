"""The report that the gateway asks for itself, and takes out of the stream again."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.features.usage_report import StreamUsage, add_usage
from gateway_lite.wire.sse import Events, payload, replaced
from gateway_lite.wire.token_usage import Usage

DELTA = b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
CLAIM = b'data: {"choices":[{"delta":{"content":"\\"choices\\":[] \\"usage\\":{"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"
REPORTS = [
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n',
    b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "choices": []}\n\n',
    b'data: {"choices":[],"usage":{"completion_tokens":3,"a":1,"prompt_tokens":7}}\r\n\r\n',
]


def fed(data: bytes, cuts: list[int]) -> tuple[bytes, StreamUsage]:
    editor = StreamUsage()
    edges = [0, *sorted(cuts), len(data)]
    out = b"".join(editor.feed(data[start:end]) for start, end in pairwise(edges))
    return out + editor.finish(), editor


@settings(deadline=None)
@given(st.sampled_from(REPORTS), st.lists(st.integers(0, 700), max_size=30))
def test_any_cut_leaves_the_stream_without_the_report(report: bytes, cuts: list[int]) -> None:
    before = b": ping\n\n" + DELTA + CLAIM + DELTA * 3 + LAST
    out, editor = fed(before + report + DONE, cuts)

    assert out == before + DONE
    assert editor.usage == Usage(7, 3)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
        b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
        b'data: {"error":{"message":"\\"choices\\":[]"}}\n\n',
        b'data: "choices":[] no json\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":"\xff"}}\n\n',
        b'data: {"usage":{"prompt_tokens":1}}\n\n',
    ],
)
def test_what_is_no_report_stays(event: bytes) -> None:
    out, editor = fed(event + DONE, [])

    assert out == event + DONE
    assert editor.usage is None


def test_an_end_without_an_empty_line_is_passed_on_or_taken_out() -> None:
    assert fed(DELTA + b"data: cut", [])[0] == DELTA + b"data: cut"
    out, editor = fed(DELTA + REPORTS[0].rstrip(), [])
    assert (out, editor.usage) == (DELTA, Usage(7, 3))


def test_a_read_of_whole_events_is_not_copied() -> None:
    data = DELTA * 5
    assert StreamUsage().feed(data) is data


def test_an_event_without_an_end_is_refused() -> None:
    events = Events(most=100)
    events.feed(b"data: " + b"x" * 90)
    with pytest.raises(ApiError, match="without an end"):
        events.feed(b"x" * 90)


@settings(deadline=None)
@given(st.lists(st.sampled_from([DELTA, DONE, LAST, b": c\r\n\r\n", REPORTS[2]])), st.data())
def test_events_are_the_same_however_they_are_cut(parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20))
    events = Events()
    edges = [0, *sorted(cuts), len(whole)]
    got = [e for start, end in pairwise(edges) for e in events.feed(whole[start:end])]
    rest = events.rest()

    assert [e.rstrip() for e in [*got, rest] if e.strip()] == [p.rstrip() for p in parts]
    assert b"".join(got) + rest == whole


def test_the_payload_of_an_event() -> None:
    assert payload(b'data: {"a":1}\n\n') == b'{"a":1}'
    assert payload(b"event: x\r\ndata:1\r\ndata: 2\r\n\r\n") == b"1\n2"
    assert payload(b": ping\n\n") == b""
    assert (
        replaced(b"event: x\r\nid: 3\r\ndata: 1\r\n\r\n", b"2") == b"event: x\nid: 3\ndata: 2\n\n"
    )
    assert replaced(b"data: 1\n\n", b"2") == b"data: 2\n\n"


BODY = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)


@settings(deadline=None)
@given(BODY, st.booleans(), st.booleans())
def test_a_stream_is_asked_for_its_report(body: dict[str, Any], null: bool, indent: bool) -> None:
    body.pop("stream_options", None)
    body["stream"] = True
    if null:
        body["stream_options"] = None
    made = add_usage(json.dumps(body, indent=1 if indent else None).encode())

    assert made is not None
    assert json.loads(made) == {**body, "stream_options": {"include_usage": True}}
    assert made.count(b'"stream_options"') == 1
    assert add_usage(made) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true,"stream_options":{"include_usage":false}}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{}}',
        b'{"stream":false}',
        b'{"stream":null}',
        b'{"stream":"yes"}',
        b"{}",
        b"[]",
        b"nothing",
        b'{"stream":true,"stream_options":null,"a":"\xff"}',
        b"",
    ],
)
def test_a_choice_of_the_client_is_never_turned(body: bytes) -> None:
    assert add_usage(body) is None


def test_nesting_too_deep_for_the_reader_is_no_fault() -> None:
    """Python 3.14 bounds the depth by the stack's size, releases before by a count."""
    body = b'{"stream":true,"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    added = add_usage(body)
    assert added is None or added == b'{"stream_options":{"include_usage":true},' + body[1:]
