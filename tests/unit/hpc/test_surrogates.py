"""Halves of surrogate pairs leave JSON, and everything else stays byte for byte."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from hpc.surrogates import without_halves

WORDS = st.lists(st.sampled_from(["\ud83d", "\ude00", "\\", "ud83d", '"', "é", "😀"])).map("".join)


@given(WORDS)
def test_a_document_is_valid_text_afterwards(text: str) -> None:
    document = json.dumps({text: [text]}).encode()
    (made,) = json.loads(without_halves(document))

    assert made.encode().decode() == "".join(
        "\ufffd" if "\ud800" <= char <= "\udfff" else char for char in json.loads(json.dumps(text))
    )


@given(st.text())
def test_other_text_stays(text: str) -> None:
    document = json.dumps(text).encode()

    assert without_halves(document) == document
