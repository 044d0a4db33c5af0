"""The tokens that an answer reports, read from its end."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.telemetry.request_record import RequestRecord
from gateway_lite.wire.token_usage import TAIL_BYTES, Tail, Usage, ended, of_whole, read

REPORT = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
FRAME = b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
LAST = b"data: " + json.dumps({"choices": [], "usage": REPORT}).encode() + b"\n\n"
STREAM = FRAME * 300 + LAST + b"data: [DONE]\n\n"


def tail_of(data: bytes, cuts: list[int]) -> bytes:
    tail = Tail()
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        tail.add(data[start:end])
    return tail.read()


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_split_leaves_the_same_tail_and_report(cuts: list[int]) -> None:
    tail = tail_of(STREAM, cuts)

    assert tail == STREAM[-TAIL_BYTES:]
    assert read(tail) == Usage(7, 3)
    assert ended(tail)


@given(st.lists(st.binary(max_size=3 * TAIL_BYTES), max_size=12))
def test_the_tail_is_the_end_of_all_bytes(chunks: list[bytes]) -> None:
    tail = Tail()
    for chunk in chunks:
        tail.add(chunk)

    assert tail.read() == b"".join(chunks)[-TAIL_BYTES:]
    assert len(tail._bytes) <= 2 * TAIL_BYTES


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_make_the_reader_fail(data: bytes) -> None:
    for text in (data, b'"usage":' + data, b'"usage":{' + data):
        found = read(text)
        assert found is None or found.prompt >= 0


@given(st.text(max_size=200))
def test_words_of_the_model_are_no_report(text: str) -> None:
    claim = '"usage": {"prompt_tokens": 1000000, "completion_tokens": 9}'
    answer = {"choices": [{"message": {"content": text + claim}}], "usage": REPORT}
    after = {"usage": REPORT, "choices": [{"message": {"content": claim + text}}]}
    alone = {"choices": [{"message": {"content": claim + text}}]}

    assert read(json.dumps(answer).encode()) == Usage(7, 3)
    assert read(json.dumps(after).encode()) == Usage(7, 3)
    assert read(json.dumps(alone, ensure_ascii=False).encode()) is None


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"prompt_tokens": 5, "total_tokens": 5}, Usage(5, 0)),
        ({"input_tokens": 5, "output_tokens": 6}, Usage(5, 6)),
        ({"prompt_tokens": 5, "completion_tokens": 6, "details": {"x": 1}}, Usage(5, 6)),
        ({"prompt_tokens": 5, "completion_tokens": None}, Usage(5, 0)),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": True}, None),
        ({"prompt_tokens": 2**60}, None),
        ({"prompt_tokens": 1.5}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", " : ")])
def test_reports_of_every_kind(
    report: dict[str, Any] | None, expected: Usage | None, separators: tuple[str, str]
) -> None:
    answer = json.dumps({"usage": report, "timings": {"ms": 1}}, separators=separators)

    assert read(answer.encode()) == expected


def test_deep_nesting_is_no_report() -> None:
    assert read(b'"usage":{"a":' + b"[" * 8000) is None


def test_a_report_before_the_tail_is_not_seen() -> None:
    tail = tail_of(LAST + FRAME * 300, [])

    assert read(tail) is None
    assert not ended(tail)


def test_who_left_after_the_last_word_had_a_success() -> None:
    served, cut = RequestRecord("a"), RequestRecord("b")
    served.status = cut.status = 200
    served.sent(STREAM, more=True)
    served.left()
    cut.sent(FRAME, more=True)
    cut.left()

    assert (served.status, served.error) == (200, None)
    assert (cut.status, cut.error) == (499, "client_gone")


@pytest.mark.parametrize("text", ["\ud83d", "\udc00 and \0"])
def test_half_a_character_in_an_answer_hides_no_report(text: str) -> None:
    answer = {"choices": [{"message": {"content": text}}], "usage": REPORT}
    assert of_whole(json.dumps(answer).encode()) == Usage(7, 3)
