"""The rule for files and folders that others could have made, changed or replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc.state import trust


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a b/c"
    made.mkdir(parents=True)
    for each in (made, made.parent):
        each.chmod(0o755)
    return made


def test_our_own_folders_below_a_sticky_one_are_safe(folder: Path) -> None:
    assert trust.weak_folder(folder) is None
    folder.parent.chmod(0o1777)
    assert trust.weak_folder(folder) is None


@pytest.mark.parametrize(
    ("mode", "who", "letters"),
    [
        (0o775, "its group", "g"),
        (0o2770, "its group", "g"),
        (0o757, "every user", "o"),
        (0o777, "every user", "go"),
        (0o772, "every user", "go"),
    ],
)
def test_a_folder_above_that_others_write_to_is_named_with_its_repair(
    folder: Path, mode: int, who: str, letters: str
) -> None:
    folder.parent.chmod(mode)
    weak = trust.weak_folder(folder)
    assert weak is not None
    assert weak.text == f"{folder.parent} can be written to by {who}"
    assert weak.repair == f"chmod {letters}-w '{folder.parent}'"
    assert os.system(weak.repair) == 0
    assert trust.weak_folder(folder) is None


def test_what_does_not_exist_yet_is_no_weakness(folder: Path) -> None:
    assert trust.weak_folder(folder / "new" / "er") is None
    folder.chmod(0o777)
    assert trust.weak_folder(folder / "new" / "er") is not None


def test_the_folders_behind_a_link_count_as_those_before_it(tmp_path: Path, folder: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("a b")
    assert trust.weak_folder(link / "c") is None
    (tmp_path / "second").symlink_to(link)
    folder.parent.chmod(0o775)
    for way in (link / "c", tmp_path / "second/c", tmp_path / "x/../link/c"):
        (tmp_path / "x").mkdir(exist_ok=True)
        weak = trust.weak_folder(way)
        assert weak is not None
        assert str(folder.parent) in weak.text


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        trust.weak_folder(tmp_path / "a")


def test_a_found_file_is_safe_with_its_folder_whatever_lies_above(folder: Path) -> None:
    path = folder / "models.yaml"
    path.touch(mode=0o644)
    folder.parent.chmod(0o777)
    assert trust.weak_file(path) is None
    path.chmod(0o664)
    weak = trust.weak_file(path)
    assert weak is not None
    assert weak.repair == f"chmod g-w '{path}'"
    path.chmod(0o644)
    folder.chmod(0o2775)
    weak = trust.weak_file(path)
    assert weak is not None
    assert weak.repair == f"chmod g-w '{folder}'"
    folder.chmod(0o1777)
    assert trust.weak_file(path) is None


def test_a_link_to_a_file_in_a_weak_folder_is_weak(folder: Path) -> None:
    real = folder / "models.yaml"
    real.touch(mode=0o644)
    folder.chmod(0o777)
    link = folder.parent / "models.yaml"
    link.symlink_to(real)
    assert trust.weak_file(link) is not None


def test_a_secret_is_a_regular_file_that_only_we_can_open(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    path.touch(mode=0o600)
    assert trust.weak_secret(path, path.lstat()) is None
    path.chmod(0o640)
    weak = trust.weak_secret(path, path.lstat())
    assert weak is not None
    assert (weak.text, weak.repair) == (f"{path} is open to others (mode 640)", f"chmod 600 {path}")
    (tmp_path / "link").symlink_to(path)
    weak = trust.weak_secret(path, (tmp_path / "link").lstat())
    assert weak is not None
    assert "not a regular file" in weak.text


def test_only_the_owner_and_root_are_trusted() -> None:
    foreign = os.stat_result((0o40755, 1, 1, 1, 54321, 0, 0, 0, 0, 0))
    weak = trust.weak_entry(Path("/x"), foreign)
    assert weak is not None
    assert (weak.text, weak.repair) == ("/x belongs to uid 54321, not to you or root", None)
    for owner in (0, os.getuid()):
        ours = os.stat_result((0o40755, 1, 1, 1, owner, 0, 0, 0, 0, 0))
        assert trust.weak_entry(Path("/x"), ours) is None


def test_without_owners_and_modes_nothing_is_weak(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.chmod(0o777)
    monkeypatch.delattr(os, "getuid")
    assert trust.weak_folder(folder) is None
