"""The folder of a build in progress, with copies of passwords: gone at its end, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

HELD = "held"
"""File in the folder that the build keeps locked."""
ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that would end the process without a word: from scancel, or a terminal that closes."""


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """Make a folder, mode 0700, for a build on the local machine, and remove the folder at the end.

    Signals that end the process remove the folder too. What SIGKILL leaves is removed by the next
    build on the same machine: other machines may not see this one's locks.

    Args:
        parent: where; it exists.

    Raises:
        OSError: the folder cannot be made.
    """
    prefix = f".build-{socket.gethostname()}-"
    with _ended_by_signals():
        _sweep(parent, prefix)
        with (
            tempfile.TemporaryDirectory(
                prefix=prefix, dir=parent, ignore_cleanup_errors=True
            ) as made,
            (Path(made) / "new").open("wb") as held,
        ):
            with contextlib.suppress(OSError):  # a file system without locks is not swept either
                fcntl.flock(held, fcntl.LOCK_EX)
            # Under its name only once it is locked: no other build takes this one for dead.
            Path(held.name).rename(Path(made) / HELD)
            yield Path(made)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the user's folders of builds that were killed; others may share the parent."""
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                with (folder / HELD).open("rb") as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the process by an exception, so that folders are removed on its way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    for other in ENDS:  # a second one would stop the removal
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)
