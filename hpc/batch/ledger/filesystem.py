"""The few file operations of a batch, behind a protocol so that tests can make each fail."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class FileSystem(Protocol):
    """The file system operations of claims and answers."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder; a network file system may return an old listing."""

    def move(self, old: Path, new: Path) -> bool:
        """Rename a file; False when the file does not exist."""

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file and make the data durable."""

    def read(self, path: Path) -> bytes:
        """Return a file's content, or b"" when the file does not exist."""


class RealFileSystem:
    """The file system of the machine."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 - 10^5 names, no Path for each
        except FileNotFoundError:
            return []

    def move(self, old: Path, new: Path) -> bool:
        """Rename a file; a rename whose reply NFS lost counts as done."""
        try:
            os.rename(old, new)  # noqa: PTH104 - as above
        except FileNotFoundError:
            return os.path.exists(new)  # noqa: PTH110 - the name is unique, so only we made it
        return True

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file and make the data durable."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, path: Path) -> bytes:
        """Return a file's content, or b"" when the file does not exist."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""
