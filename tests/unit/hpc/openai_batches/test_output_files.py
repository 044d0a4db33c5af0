"""The token counts of a batch's answers."""

from __future__ import annotations

import json

import pytest

from hpc.openai_batches import output_files


@pytest.mark.parametrize("text", ["plain", "half \ud83d", "\udc00", "\0"])
def test_every_answer_has_its_counts_whatever_it_says(text: str) -> None:
    body = {"choices": [{"text": text}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    line = json.dumps({"custom_id": text, "response": {"body": body}}).encode()
    found = output_files.of(line)

    assert (found["input_tokens"], found["output_tokens"]) == (3, 2)


def test_answers_of_responses_have_counts_too() -> None:
    usage = {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 4},
    }
    line = json.dumps({"response": {"body": {"usage": usage}}}).encode()

    assert list(output_files.of(line).values()) == [3, 1, 5, 4]
