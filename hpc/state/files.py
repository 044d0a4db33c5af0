"""Files of the state directory: written whole, read with tolerance."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hpc.errors import StateError
from hpc.state import trust


def make_folder(folder: Path, *, exist_ok: bool = True) -> None:
    """Make a folder and the missing ones above it, all open to their owner only.

    ``Path.mkdir`` gives its mode to the last folder alone, and the umask's to those above.

    Args:
        folder: the folder.
        exist_ok: accept an existing folder.

    Raises:
        OSError: a folder cannot be made, or exists against ``exist_ok``.
    """
    for each in reversed(folder.parents):
        if not each.exists():
            each.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=exist_ok)


def write_text(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a whole file at once, durably.

    Args:
        path: the file.
        text: the new content.
        mode: permissions of the file.

    Raises:
        StateError: the folder is not writable or full; the old file is then untouched.
    """
    temporary = ""
    try:
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a crash must not leave an empty file
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
        temporary = ""
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from error
    finally:  # also when a signal ends the write
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def read_secret(path: Path) -> str | None:
    """Return the text of a file that only its owner may open, or None if the file is missing.

    Raises:
        StateError: the file belongs to another user, or others may open it.
    """
    try:
        # Without following a link, and without waiting for the writer of a pipe.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, os.O_RDONLY | flags), encoding="utf-8") as file:
            weak = trust.weak_secret(path, os.fstat(file.fileno()))
            if weak is None:
                return file.read()
    except (OSError, UnicodeDecodeError):
        return None
    raise StateError(f"{weak.text} and is not used", hint=weak.repair)


def read_text(path: Path) -> str | None:
    """Return a file's text, or None if the file is missing or unreadable at present."""
    # OSError includes ESTALE, from an NFS client whose file was just replaced.
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
