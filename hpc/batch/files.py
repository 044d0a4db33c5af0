"""The few file operations that a batch rests on, so that a test can make each of them fail."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Files(Protocol):
    """What the claims and answers of a batch ask of a file system."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder; a file system on a network may tell an old list."""

    def move(self, old: Path, new: Path) -> bool:
        """Rename a file; False where it is not there."""

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file and make it durable."""

    def read(self, path: Path) -> bytes:
        """Return a file, or nothing where there is none."""


class RealFiles:
    """The file system of this machine."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 - 10^5 names, no Path for each
        except FileNotFoundError:
            return []

    def move(self, old: Path, new: Path) -> bool:
        """Rename a file; a rename whose answer NFS lost counts as done."""
        try:
            os.rename(old, new)  # noqa: PTH104 - as above
        except FileNotFoundError:
            return os.path.exists(new)  # noqa: PTH110 - one of its kind, so only we can have made it
        return True

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a file and make it durable."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, path: Path) -> bytes:
        """Return a file, or nothing where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
