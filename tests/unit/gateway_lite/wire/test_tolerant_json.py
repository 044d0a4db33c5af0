"""Engines' answers with what is no character: read all the same, and nothing else changed."""

from __future__ import annotations

import itertools
import json
import re

import msgspec
import pytest

from gateway_lite.wire import tolerant_json

PARTS = ["\ud83d", "\ude00", "a", "\\", '"', "u", "\\ud83d", "\\ude00", "\n", "\0", "\U0001f600"]


def test_halves_of_pairs_alone_become_the_replacement_character() -> None:
    for parts in itertools.product(PARTS, repeat=3):
        data = json.dumps("".join(parts)).encode()
        wanted = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(data))

        assert tolerant_json.decode(data) == wanted, data


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a\\udc00": "\xff b"}', {"a\ufffd": "\ufffd b"}),
        (b'["\xed\xa0\x80", "a\x00b"]', ["\ufffd" * 3, "a\0b"]),
        (b'["\\ud800", Infinity]', ["\ufffd", float("inf")]),
    ],
)
def test_invalid_bytes_and_control_characters_stay_in_their_string(
    data: bytes, value: object
) -> None:
    assert tolerant_json.decode(data) == value


@pytest.mark.parametrize("data", [b"", b'{"a": "\\ud800"', b"\xff", b"[1,]", b"9" * 5000])
def test_what_is_no_json_is_none(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        tolerant_json.decode(data)
