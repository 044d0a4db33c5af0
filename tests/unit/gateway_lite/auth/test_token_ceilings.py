"""Ceilings of prompts and answers."""

from __future__ import annotations

import pytest

from gateway_lite.auth import rate_limits
from gateway_lite.errors import ApiError
from hpc.keys.limits import KeyLimits

KEY = KeyLimits(max_tokens=100, max_prompt_tokens=1000)
MODEL = KeyLimits(max_tokens=50)


@pytest.mark.parametrize(
    ("prompt", "answer", "holding", "expected"),
    [
        (10**9, 10**9, (), None),
        (10**9, None, (None, KeyLimits()), None),
        (1000, 100, (KEY, None), None),
        (1000, None, (KEY,), 100),
        (1, None, (KEY, MODEL), 50),
        (1, None, (MODEL, KEY), 50),
        (1, 50, (KEY, MODEL), None),
    ],
)
def test_the_lowest_ceiling_holds(
    prompt: int, answer: int | None, holding: tuple[KeyLimits | None, ...], expected: int | None
) -> None:
    assert rate_limits.check_lengths(prompt, answer, *holding) == expected


def test_a_prompt_that_is_too_long_is_told() -> None:
    with pytest.raises(ApiError, match="of about 1001 tokens is longer than the 1000") as caught:
        rate_limits.check_lengths(1001, None, MODEL, KEY)

    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_an_answer_that_is_too_long_is_told() -> None:
    with pytest.raises(ApiError, match="max_tokens is 51, and at most 50") as caught:
        rate_limits.check_lengths(1, 51, KEY, MODEL)

    assert (caught.value.status, caught.value.param) == (400, "max_tokens")
