"""The check of a job's pickle before it runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from hpc.errors import StateError
from hpc.jobs import run_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pickle(tmp_path: Path) -> Path:
    folder = tmp_path / "state/jobs"
    folder.mkdir(parents=True, mode=0o700)
    made = folder / "1_submitted.pkl"
    made.touch(mode=0o600)
    return made


def test_our_own_pickle_is_fine(pickle: Path) -> None:
    run_task.check(pickle)


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_pickle_that_others_could_have_put_there_is_refused(pickle: Path, up: int) -> None:
    weak = [pickle, *pickle.parents][up]
    weak.chmod(0o770)
    with pytest.raises(StateError, match="can be written to by its group") as caught:
        run_task.check(pickle)
    assert caught.value.hint == f"chmod g-w {weak}"


def test_a_pickle_of_somebody_else_is_refused(
    pickle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        os.chown(pickle, 54321, 54321)
    else:  # a file of root's, which is fine for a folder and not for a pickle
        pickle.unlink()
        pickle.symlink_to("/etc/passwd")
    with pytest.raises(StateError, match=r"belongs to uid \d+, not to you"):
        run_task.check(pickle)


def test_a_pickle_that_never_came_is_told(pickle: Path) -> None:
    pickle.unlink()
    with pytest.raises(StateError, match="No such file"):
        run_task.check(pickle)
