"""What the workers of a batch show: it opens what its key opens, and nothing that is not signed."""

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

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"s" * 32
BATCH = "batch_" + "0" * 24
SOON = int(time.time()) + 86400


def test_a_pass_names_its_key_until_it_ends() -> None:
    made = batch_tokens.issue(SECRET, "0123abcd", BATCH, SOON).encode()

    assert batch_tokens.holder(SECRET, made) == "0123abcd"
    assert batch_tokens.holder(b"t" * 32, made) is None
    assert (
        batch_tokens.holder(SECRET, batch_tokens.issue(SECRET, "0123abcd", BATCH, 1000).encode())
        is None
    )


@given(st.data())
def test_no_other_text_is_a_pass(data: st.DataObject) -> None:
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


def test_a_pass_opens_what_its_key_opens_and_no_longer(tmp_path: Path) -> None:
    path, file = tmp_path / "keys.yaml", tmp_path / "batch.key"
    _, entry = key_store.add(path, "me")
    known = ClientKeys(path, token_secret=file)
    made = batch_tokens.issue(batch_tokens.ensure(file), entry.id, BATCH, SOON).encode()
    with pytest.raises(ApiError, match="keys file"):
        known.find(made)
    known.refresh()
    assert known.find(made) == entry
    assert known.find(made[:-1] + b"x") is None
    strange = batch_tokens.issue(batch_tokens.ensure(file), "ffffffff", BATCH, SOON).encode()
    assert known.find(strange) is None
    key_store.revoke(path, "me")
    known.refresh()

    assert known.find(made) is None


def test_who_shows_no_key_has_batches_only_where_that_is_let_in(tmp_path: Path) -> None:
    file = tmp_path / "batch.key"
    made = batch_tokens.issue(batch_tokens.ensure(file), ANYBODY.id, BATCH, SOON).encode()
    for anonymous in (True, False):
        known = ClientKeys(tmp_path / "keys.yaml", anonymous=anonymous, token_secret=file)
        known.refresh()

        assert known.find(made) == (ANYBODY if anonymous else None)
