"""The folder of a build: whose it removes, and whose not; tests with signals are in security."""

from __future__ import annotations

import fcntl
import signal
import socket
import stat
from typing import TYPE_CHECKING

from hpc.images.workplace import HELD, workplace

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = f".build-{socket.gethostname()}-"


def dead(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    (made / HELD).touch()
    return made


def test_it_is_private_and_goes_with_its_files(tmp_path: Path) -> None:
    with workplace(tmp_path) as folder:
        (folder / "settings").mkdir()
        (folder / "settings/netrc").touch()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_only_dead_builds_of_this_machine_are_removed(tmp_path: Path) -> None:
    gone, held = dead(tmp_path, f"{PREFIX}gone"), dead(tmp_path, f"{PREFIX}held")
    other, unborn = dead(tmp_path, ".build-elsewhere-x"), tmp_path / f"{PREFIX}unborn"
    unborn.mkdir()
    target = dead(tmp_path, "target")
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    with (held / HELD).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with workplace(tmp_path):
            pass
    assert not gone.exists()
    assert all(path.exists() for path in (held, other, unborn, target / HELD))


def test_handlers_of_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    with workplace(tmp_path):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == before
