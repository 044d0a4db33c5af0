"""The bounds on the parts of a body, counted without decoding it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.wire import body_shape


def passed(body: bytes) -> int:
    """Return the number of slices that were counted."""
    return sum(1 for _ in body_shape.check(body))


HOSTILE = '{"a": [1, {"b": "c"}]},\\"\\\\'


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[" + b"{}," * body_shape.FIELDS + b"{}]", "objects"),
        (b"[" * 2 * body_shape.UNCHECKED, "objects"),
        (b"{" + b'"a":1,' * body_shape.FIELDS + b'"a":1}', "objects"),
        (b"[" + b"1," * (body_shape.VALUES + 1) + b"1]", "values"),
        (b"[" + b'"",' * (body_shape.VALUES + 1) + b'""]', "strings"),
        (b"[" + b'"",' * body_shape.TEXTS + b'""]', "strings"),
    ],
)
def test_a_body_beyond_a_bound_is_refused(body: bytes, what: str) -> None:
    with pytest.raises(ApiError, match=what):
        passed(body)


def test_ten_thousand_messages_fit() -> None:
    message = {"role": "user", "content": "Say, " * 10}
    passed(json.dumps({"model": "m", "messages": [message] * 9_990}).encode())


def test_what_stands_in_strings_does_not_count() -> None:
    text = HOSTILE * body_shape.FIELDS
    passed(json.dumps({"messages": [{"content": text}] * 2}).encode())


@given(st.integers(1, 40), st.integers(0, body_shape.SLICE))
def test_slices_may_end_anywhere(count: int, shift: int) -> None:
    """The same strings, moved against the borders of slices, are still strings."""
    texts = ["x" * shift, *[HOSTILE * 1000] * count]
    body = json.dumps(texts).encode() + b" " * body_shape.SLICE
    passed(body)


@given(st.lists(st.text(max_size=30), max_size=200))
def test_any_json_of_few_parts_passes(texts: list[str]) -> None:
    passed(json.dumps({"messages": texts}).encode())


def test_a_body_of_nothing_but_backslashes_is_counted_to_its_end() -> None:
    dense = b"[" + b"1," * (body_shape.VALUES + 1)
    text = b'"' + b"\\" * (2 * body_shape.SLICE + 2) + b'"'
    with pytest.raises(ApiError, match="values"):
        passed(b"[" + text + b"," + dense)


def test_a_large_text_is_counted_slice_by_slice() -> None:
    body = json.dumps({"messages": [{"content": HOSTILE * body_shape.FIELDS}]}).encode()
    assert passed(body) >= len(body) // (body_shape.SLICE + 1)
