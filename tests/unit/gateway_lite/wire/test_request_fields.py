"""The fields of a request under limits: one spelling, one length, and tokens of every form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.errors import ApiError
from gateway_lite.wire import request_body
from gateway_lite.wire.request_fields import READ, USUAL, checked
from hpc.api_paths import CHAT, RERANK, RESPONSES, TEXT


def fields(path: str = CHAT, /, **body: Any) -> Any:
    return checked(path, json.dumps(body).encode())


@pytest.mark.parametrize("value", [0, -1, 1.0, 1e2, True, False, "5", [], {}, 2**31, 10**400])
@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "max_new_tokens"])
def test_a_length_that_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ApiError, match=f"'{name}' must be a whole number from 1") as caught:
        fields(**{name: value, "max_completion_tokens": 5}).length()
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1" + b"0" * 400, b"NaN"])
def test_a_number_beyond_all_bounds_is_refused(number: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        checked(CHAT, b'{"max_tokens":' + number + b"}").length()
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "body", "length"),
    [
        (CHAT, {"max_tokens": 7, "max_completion_tokens": 9, "n_predict": 3}, 9),
        (CHAT, {"max_tokens": 7, "max_completion_tokens": None}, 7),
        (CHAT, {"n_predict": 3}, 3),
        (CHAT, {"max_output_tokens": 3}, None),
        (TEXT, {"max_tokens": 7, "max_completion_tokens": 9}, 7),
        (TEXT, {"max_completion_tokens": 9}, 9),
        (RESPONSES, {"max_tokens": 7, "max_output_tokens": 9}, 9),
        (RERANK, {"max_tokens": 7}, None),
    ],
)
def test_the_length_is_that_of_the_path(path: str, body: dict[str, Any], length: int) -> None:
    assert fields(path, **body).length() == length


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": 2, "best_of": 5, "n_cmpl": 4}, 5),
        ({"n": None}, 1),
        ({"prompt": "a"}, 1),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["a", "b,c", "d"], "n": 2}, 6),
        ({"prompt": [1, "a", [2]]}, 3),
        ({"prompt": [], "n": 2}, 2),
        ({"prompt": None, "prompt_embeds": ["a", "b"]}, 3),
    ],
)
def test_answers_are_choices_times_prompts(body: dict[str, Any], answers: int) -> None:
    assert fields(TEXT, **body).answers() == answers


@pytest.mark.parametrize("value", [0, -2, "3", 3.0, True])
def test_a_number_of_answers_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ApiError, match="'n' must be"):
        fields(n=value).answers()


@given(st.lists(st.integers(0, 200_000), min_size=1), st.integers(1, 5))
def test_token_ids_count_one_each(ids: list[int], times: int) -> None:
    for prompt in (ids, [ids] * times):
        count = len(ids) * (1 if prompt is ids else times)
        assert fields(TEXT, prompt=prompt).prompt_tokens() >= count
        assert fields("/v1/embeddings", input=prompt).prompt_tokens() >= count


def test_texts_count_by_their_bytes() -> None:
    body = {"prompt": "x" * 400}
    assert fields(TEXT, **body).prompt_tokens() == len(json.dumps(body)) // 4
    assert fields(TEXT, prompt=["x" * 40] * 10).prompt_tokens() <= 130


def test_the_query_of_a_ranking_counts_for_each_document() -> None:
    once = fields(RERANK, query="q" * 400, documents=["d"]).prompt_tokens()
    often = fields(RERANK, query="q" * 400, documents=["d"] * 10).prompt_tokens()
    assert often >= once + 9 * 100


@pytest.mark.parametrize(
    "name",
    [
        *("Model", "MODEL", "mo_del", "mo-del", "\uff4dodel", "mode\u217c", "model\0", "model\0x"),
        *("maxTokens", "MaxTokens", "max-tokens", "Max_Completion_Tokens", "max_to\u212aens"),
        *("N", "Stream", "streamOptions", "Prompt", "max_token\u017f", "nPredict", "\uff2e"),
    ],
)
def test_a_name_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(ApiError, match="is spelled otherwise"):
        fields(**{"model": "m", name: 1})


def test_all_other_names_are_free() -> None:
    names = {*READ, *USUAL, "Temperature", "modelle", "nn", "x", "", "_", "\u00fc", "messages2"}
    assert set(fields(**dict.fromkeys(names, 1)).found) == names


KEYS = st.sampled_from(["model", "max_tokens", "x"]) | st.text(max_size=3)


@given(st.lists(st.tuples(KEYS, st.integers(1, 9)), max_size=6))
def test_of_two_equal_names_the_last_counts_for_gateway_and_engine(
    pairs: list[tuple[str, int]],
) -> None:
    text = ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs)
    try:
        found = checked(CHAT, f"{{{text}}}".encode())
    except ApiError:
        return
    assert json.loads(found.body(), object_pairs_hook=list) == list(dict(pairs).items())


def test_both_readers_of_a_body_agree() -> None:
    body = b'{"model":"a","mod\\u0065l":"b","max_tokens":1,"max\\u005ftokens":2}'
    read = request_body.read(body)
    assert (read.model, read.limit(CHAT)) == ("b", checked(CHAT, body).length()) == ("b", 2)


def test_one_length_takes_the_place_of_all_names() -> None:
    said = dict.fromkeys(["max_tokens", "n_predict", "num_predict", "max_new_tokens"], 9)
    made = fields(**said, stream_interval=100, top_p=0.5).with_length(4)
    assert json.loads(made.body()) == {"top_p": 0.5, "max_tokens": 4}
    assert json.loads(fields(RESPONSES, **said).with_length(4).body()) == {"max_output_tokens": 4}


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"a":}'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        checked(CHAT, body)
