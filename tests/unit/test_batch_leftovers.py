"""What a killed process left of a batch goes; what others have in hand stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hpc.batch import leftovers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def gone() -> int:
    """Return the id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def folder(batches: Path, name: str, maker: str | None) -> Path:
    made = batches / name
    made.mkdir()
    (made / "requests.jsonl").write_text("{}\n")
    if maker is not None:
        (made / leftovers.MAKER).write_text(maker)
    return made


def test_only_what_a_dead_process_of_this_machine_left_is_removed(
    tmp_path: Path, gone: int
) -> None:
    here = socket.gethostname()
    dead = folder(tmp_path, "1", f"{here} {gone}\n")
    half_removed = folder(tmp_path, ".2", None)
    alive = folder(tmp_path, "3", f"{here} {os.getpid()}\n")
    elsewhere = folder(tmp_path, "4", f"not-{here} {gone}\n")
    unsigned = folder(tmp_path, "5", None)
    torn = folder(tmp_path, "6", here)
    taken_in = folder(tmp_path, "7", f"{here} {gone}\n")
    (taken_in / "spec.json").write_text("{}")
    leftovers.sweep(tmp_path)
    assert not dead.exists()
    assert not half_removed.exists()
    for one in (alive, elsewhere, unsigned, torn, taken_in):
        assert (one / "requests.jsonl").exists(), one


def test_there_may_be_no_batches_yet(tmp_path: Path) -> None:
    leftovers.sweep(tmp_path / "batches")


def test_a_folder_is_ours_until_it_is_signed_off(tmp_path: Path) -> None:
    made = folder(tmp_path, "1", None)
    leftovers.sign(made)
    leftovers.sweep(tmp_path)
    assert made.exists()
    leftovers.signed_off(made)
    assert not (made / leftovers.MAKER).exists()
