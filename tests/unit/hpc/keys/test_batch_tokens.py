"""Batch tokens: good for inference by the key's rights while the batch is in progress."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.auth.client_keys import ANYBODY, ClientKeys
from gateway_lite.errors import ApiError
from hpc.keys import batch_tokens
from hpc.keys import store as key_store
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"s" * 32
BATCH = "batch_" + "0" * 24
SOON = int(time.time()) + 86400


def test_a_token_names_its_key_until_it_ends() -> None:
    made = batch_tokens.issue(SECRET, "0123abcd", BATCH, SOON).encode()

    assert batch_tokens.holder(SECRET, made) == ("0123abcd", BATCH)
    assert batch_tokens.holder(b"t" * 32, made) is None
    assert (
        batch_tokens.holder(SECRET, batch_tokens.issue(SECRET, "0123abcd", BATCH, 1000).encode())
        is None
    )


@given(st.data())
def test_no_other_text_is_a_token(data: st.DataObject) -> None:
    made = batch_tokens.issue(SECRET, "0123abcd", BATCH, SOON).encode()
    at = data.draw(st.integers(0, len(made) - 1))
    other = data.draw(st.binary(min_size=0, max_size=3))
    changed = made[:at] + other + made[at + 1 :]

    assert changed == made or batch_tokens.holder(SECRET, changed) is None


def test_the_secret_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    file = batch_tokens.path(tmp_path)
    first = batch_tokens.ensure(file)

    assert batch_tokens.ensure(file) == first == batch_tokens.load(file)
    assert len(first) == 32
    assert os.stat(file).st_mode & 0o777 == 0o600  # noqa: PTH116
    file.write_text("short")
    assert batch_tokens.load(file) is None


def test_a_token_is_good_for_inference_alone_while_its_batch_is_in_progress(tmp_path: Path) -> None:
    path = directory.keys_path(tmp_path)
    _, entry = key_store.add(path, "me")
    known = ClientKeys(tmp_path)
    made = batch_tokens.grant(tmp_path, entry.id, BATCH, SOON).encode()
    with pytest.raises(ApiError, match="keys file"):
        known.find_for_inference(made)
    known.refresh()
    assert known.find_for_inference(made) == entry
    assert known.find(made) is None
    assert known.find_for_inference(made[:-1] + b"x") is None
    strange = batch_tokens.grant(tmp_path, "ffffffff", BATCH, SOON).encode()
    assert known.find_for_inference(strange) is None
    batch_tokens.end(tmp_path, entry.id, BATCH)
    known.refresh()

    assert known.find_for_inference(made) is None


def test_a_token_of_a_batch_that_never_was_is_none(tmp_path: Path) -> None:
    _, entry = key_store.add(directory.keys_path(tmp_path), "me")
    known = ClientKeys(tmp_path)
    known.refresh()
    secret = batch_tokens.ensure(batch_tokens.path(tmp_path))
    batch_tokens.grant(tmp_path, entry.id, BATCH, SOON)
    other = batch_tokens.issue(secret, entry.id, "batch_" + "1" * 24, SOON).encode()

    assert known.find_for_inference(other) is None


@pytest.mark.parametrize("batch", [BATCH, "1130-042322", "1130-042322-2"])
def test_both_kinds_of_batches_have_tokens(tmp_path: Path, batch: str) -> None:
    _, entry = key_store.add(directory.keys_path(tmp_path), "me")
    known = ClientKeys(tmp_path)
    known.refresh()
    made = batch_tokens.grant(tmp_path, entry.id, batch, SOON).encode()

    assert known.find_for_inference(made) == entry


def test_a_token_ends_with_its_key(tmp_path: Path) -> None:
    path = directory.keys_path(tmp_path)
    _, entry = key_store.add(path, "me")
    known = ClientKeys(tmp_path)
    made = batch_tokens.grant(tmp_path, entry.id, BATCH, SOON).encode()
    known.refresh()
    assert known.find_for_inference(made) == entry
    key_store.revoke(path, "me")
    known.refresh()

    assert known.find_for_inference(made) is None


def test_who_shows_no_key_has_batches_only_where_that_is_let_in(tmp_path: Path) -> None:
    made = batch_tokens.grant(tmp_path, ANYBODY.id, BATCH, SOON).encode()
    for anonymous in (True, False):
        known = ClientKeys(tmp_path, anonymous=anonymous)
        known.refresh()

        assert known.find_for_inference(made) == (ANYBODY if anonymous else None)
