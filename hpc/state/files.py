"""Files of the state directory: written whole, read with tolerance."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hpc.errors import StateError


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
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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


def read_text(path: Path) -> str | None:
    """Return a file's text, or None if the file is missing or unreadable at present."""
    # OSError includes ESTALE, from an NFS client whose file was just replaced.
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
