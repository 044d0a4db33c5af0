"""Numbers that several processes share: a mapped file, and a lock that ends with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

from hpc.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 32
"""Processes that may share numbers."""
SIZE = 8
FOLDER = "/dev/shm"  # noqa: S108 - a file without a name


class FileLock:
    """A lock on an open file, which the kernel ends when the process dies."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def lock(self) -> None:
        """Wait until it is ours."""
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Let others have it."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Have it while something is done."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()


class Mapped:
    """A file of numbers as one process has it.

    Each process opens the file itself, as a lock belongs to an opening. A file without a name can
    be opened as ``/proc/self/fd/N``, and leaves nothing behind.

    Args:
        path: the file.
        worker: number of this process; no other one alive has it.

    Attributes:
        numbers: all of them.
        lock: keeps other processes out.

    Raises:
        GatewayError: so many processes cannot share it.
    """

    def __init__(self, path: str, worker: int) -> None:
        if not 0 <= worker < WORKERS:
            raise GatewayError(f"there is no worker {worker}; at most {WORKERS} share a gateway")
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.worker = worker
        self.numbers = memoryview(mmap.mmap(self._handle, 0)).cast("q")
        self.lock = FileLock(self._handle)

    def close(self) -> None:
        """Let the file go; no number may be used after that."""
        os.close(self._handle)


def make(handle: int, numbers: int) -> None:
    """Give an empty file room for so many numbers, all of them 0.

    Raises:
        GatewayError: the file system has no room.
    """
    try:
        os.posix_fallocate(handle, 0, numbers * SIZE)
    except OSError as error:
        raise GatewayError(f"no room for what workers share: {error.strerror}") from error


@contextlib.contextmanager
def nameless(numbers: int) -> Iterator[str]:
    """Make a file in memory that ends with the last process that has it; yields a path to it.

    Raises:
        GatewayError: there is no room.
    """
    folder = FOLDER if os.access(FOLDER, os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder) as file:
        make(file.fileno(), numbers)
        yield f"/proc/self/fd/{file.fileno()}"
