"""The report that the gateway asks for itself, and takes out of the stream again."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.features.usage_report import StreamUsage, ask
from gateway_lite.wire.sse import Events, payload, replaced

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
    assert editor.tokens() >= 6


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
    assert fed(event + DONE, [])[0] == event + DONE


def test_an_end_without_an_empty_line_is_passed_on_or_taken_out() -> None:
    assert fed(DELTA + b"data: cut", [])[0] == DELTA + b"data: cut"
    assert fed(DELTA + REPORTS[0].rstrip(), [])[0] == DELTA


def test_a_read_of_whole_events_is_not_copied() -> None:
    data = DELTA * 5
    assert StreamUsage().feed(data) is data


def test_an_event_of_many_reads_passes_as_one() -> None:
    large = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * 20 * 2**20)
    stream = DELTA + large + LAST + REPORTS[0] + DONE
    out, editor = fed(stream, list(range(0, len(stream), 200_000)))

    assert out == DELTA + large + LAST + DONE
    assert editor.tokens() > 5_000_000


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


RUNNING = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":7,"details":{"a":1}}}\n\n'


def test_a_client_gets_the_counts_that_it_asked_for_and_no_others() -> None:
    stream = RUNNING + REPORTS[0] + DONE
    bare = b'data: {"choices":[{"delta":{}}]}\n\n'
    for last in (False, True):
        for running in (False, True):
            editor = StreamUsage(last=last, running=running)
            expected = RUNNING if running else bare
            expected += REPORTS[0] if last else b""
            assert editor.feed(stream) + editor.finish() == expected + DONE


def test_words_of_an_answer_are_no_counts() -> None:
    said = {"choices": [{"delta": {"content": ',"usage":{"prompt_tokens":1}'}}]}
    event = b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"
    assert StreamUsage(running=False).feed(event) == event


def test_events_count_and_long_events_count_more() -> None:
    one, many = StreamUsage(), StreamUsage()
    for _ in range(10):
        one.feed(DELTA)
    many.feed(DELTA)
    many.feed(DELTA.replace(b"hi", b"hi" * 2000))

    assert one.tokens() == 10
    assert many.tokens() >= 900


def test_a_wait_for_the_engine_is_no_event() -> None:
    editor = StreamUsage()
    assert editor.feed(b": ping\n\n" * 5) == b": ping\n\n" * 5
    assert (editor.tokens(), editor.moved_at) == (0, None)


BODY = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4)
OPTIONS = st.none() | st.dictionaries(
    st.sampled_from(["include_usage", "continuous_usage_stats", "other"]), st.booleans()
)


@settings(deadline=None)
@given(BODY, OPTIONS, st.booleans(), st.booleans())
def test_a_stream_is_asked_for_its_report_whatever_the_client_chose(
    body: dict[str, Any], options: dict[str, bool] | None, absent: bool, running: bool
) -> None:
    body["stream"] = True
    if not absent:
        body["stream_options"] = options
    made = ask(json.dumps(body).encode(), running=running)
    said = {} if absent or options is None else options
    more = {"continuous_usage_stats": True} if running else {}

    assert json.loads(made.body) == {
        **body,
        "stream_options": {**said, "include_usage": True, **more},
    }
    assert made.last == said.get("include_usage", False)
    assert made.running == said.get("continuous_usage_stats", False)


@pytest.mark.parametrize("options", [b"1", b"[]", b'"yes"', b"true", b"{]"])
def test_options_of_another_form_are_refused(options: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        ask(b'{"stream":true,"stream_options":' + options + b"}", running=False)
    assert caught.value.status == 400
