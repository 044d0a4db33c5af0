"""What is left of a file that was being taken in when its process was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from typing import TYPE_CHECKING

import psutil

from hpc import state

if TYPE_CHECKING:
    from pathlib import Path

MAKER = "maker"


def sign(folder: Path) -> None:
    """Say whose work a folder is, until ``signed_off``.

    Raises:
        StateError: it cannot be written.
    """
    state.write_text(folder / MAKER, f"{socket.gethostname()} {os.getpid()}\n")


def signed_off(folder: Path) -> None:
    """Say that the work is done."""
    with contextlib.suppress(OSError):
        (folder / MAKER).unlink(missing_ok=True)


def sweep(batches: Path) -> None:
    """Remove what processes of this machine left when they were killed, and what was being removed.

    What a process of another machine made is left to that one: we cannot know whether it lives.

    Args:
        batches: folder of all batches.
    """
    with contextlib.suppress(OSError):
        for folder in list(batches.iterdir()):
            if folder.name.startswith(".") or _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    if (folder / "spec.json").exists():
        return False
    host, _, pid = (state.read_text(folder / MAKER) or "").strip().partition(" ")
    return host == socket.gethostname() and pid.isdecimal() and not psutil.pid_exists(int(pid))
