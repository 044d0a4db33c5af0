"""The tokens of a batch are those that its answers report."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpc.batch.spent import Spent


def line(body: Any) -> bytes:
    return json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode()


def test_reports_are_summed() -> None:
    spent = Spent()
    details: dict[str, Any] = {
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    spent.add(line({"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}))
    spent.add(line({"model": "m", "usage": {"prompt_tokens": 5, **details}}))
    spent.add(line({"model": "m"}))
    assert spent.told() == {"prompt": 12, "cached": 4, "completion": 3, "reasoning": 1}
    assert spent.model == "m"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"usage": None},
        {"usage": {"prompt_tokens": "7", "completion_tokens": None}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": True}},
        {"usage": {"prompt_tokens_details": 3}},
    ],
)
def test_what_makes_no_sense_adds_nothing(body: Any) -> None:
    spent = Spent()
    spent.add(line(body))
    assert (spent.told(), spent.model) == (None, None)


def test_answers_of_two_models_are_of_none() -> None:
    spent = Spent()
    spent.add(line({"model": "a"}))
    spent.add(line({"model": "b"}))
    assert spent.model is None
