"""keys.yaml of any content: keys, or one sentence that names the file; nobody gets in by it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.errors import ConfigError
from hpc.keys import store as key_store
from tests.security.fuzz.budget import fuzzing

if TYPE_CHECKING:
    from pathlib import Path


def judge(folder: Path, data: bytes) -> None:
    """Load a keys file, and check that an unknown key stays unknown."""
    file = folder / "keys.yaml"
    file.touch(mode=0o600)
    file.write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert key_store.Keyring(key_store.load(file)).find(b"hs-unknown") is None
        return
    with pytest.raises(ConfigError, match=r"keys\.yaml"):
        key_store.load(file)


@fuzzing
@given(st.data())
def test_a_cut_or_a_changed_byte(tmp_path: Path, data: st.DataObject) -> None:
    source = tmp_path / "source.yaml"
    if not source.exists():
        key_store.add(source, "me", models=("m",))
    whole = source.read_bytes()
    at, length = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 9))
    judge(tmp_path, whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + length :])


@fuzzing
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    judge(tmp_path, data)


@pytest.mark.parametrize(
    "text",
    [
        "keys: " + "[" * 5000,
        "keys: [{expires: 2026-13-45}]",
        "keys: [{expires: 0000-00-00 99:99:99}]",
        "keys: &a [*a]",
        "? [a]\n: b",
        "keys: 1" + "0" * 5000,
        "!!python/name:os.system x",
        "keys: !!set {a}",
        "keys: [{created: .inf}]",
    ],
)
def test_yamls_own_traps(tmp_path: Path, text: str) -> None:
    judge(tmp_path, text.encode())
