"""Ceilings of prompts and answers, and the length that a request gets under them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.auth import token_ceilings
from gateway_lite.auth.token_ceilings import UNSAID_TOKENS, answer_length
from gateway_lite.errors import ApiError
from hpc.keys.limits import KeyLimits

KEY = KeyLimits(max_tokens=100, max_prompt_tokens=1000)
MODEL = KeyLimits(max_tokens=50)


def test_the_lowest_ceiling_holds() -> None:
    assert token_ceilings.lowest(KEY, MODEL) == token_ceilings.lowest(MODEL, KEY) == 50
    assert token_ceilings.lowest(None, KeyLimits()) is None


def test_a_prompt_that_is_too_long_is_told() -> None:
    token_ceilings.check_prompt(1000, MODEL, KEY, None)
    with pytest.raises(ApiError, match="of about 1001 tokens is longer than the 1000") as caught:
        token_ceilings.check_prompt(1001, MODEL, KEY)

    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("asked", "answers", "ceiling", "room", "expected"),
    [
        (None, 1, None, None, UNSAID_TOKENS),
        (10**6, 3, None, None, 10**6),
        (50, 1, 50, None, 50),
        (25, 2, 50, None, 25),
        (None, 1, 50, None, 50),
        (None, 3, 50, None, 16),
        (None, 1, None, 10**6, UNSAID_TOKENS),
        (None, 2, None, 1000, 500),
        (None, 1, 50, 20, 20),
        (None, 1, 50, -5, 1),
        (70, 1, None, 20, 70),
    ],
)
def test_the_length_of_an_answer(
    asked: int | None, answers: int, ceiling: int | None, room: int | None, expected: int
) -> None:
    assert answer_length(asked, answers, ceiling, room) == expected


@pytest.mark.parametrize(
    ("asked", "answers", "told"),
    [
        (51, 1, "max_tokens is 51, and at most 50"),
        (26, 2, "2 answers of 26 tokens are asked for, and at most 50"),
        (None, 51, "51 answers of 1 tokens are asked for"),
    ],
)
def test_answers_that_are_too_long_are_told(asked: int | None, answers: int, told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        answer_length(asked, answers, 50, None)

    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


NUMBER = st.none() | st.integers(1, 10**6)


@given(NUMBER, st.integers(1, 100), st.integers(1, 10**6), NUMBER)
def test_no_request_gets_more_than_the_ceiling(
    asked: int | None, answers: int, ceiling: int, room: int | None
) -> None:
    try:
        length = answer_length(asked, answers, ceiling, room)
    except ApiError:
        assert (asked or 1) * answers > ceiling
        return
    assert 1 <= length * answers <= ceiling
    assert asked is None or length == asked
