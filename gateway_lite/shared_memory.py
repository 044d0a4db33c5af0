"""Numbers shared by several processes: a mapped file with a lock.

The kernel releases the lock when the holder ends.
"""

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
"""Processes that may share a file of numbers."""
SIZE = 8
FOLDER = "/dev/shm"  # noqa: S108 - a file without a name


class FileLock:
    """A lock on an open file; the kernel releases the lock when the process dies."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def lock(self) -> None:
        """Wait for the lock and take it."""
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def unlock(self) -> None:
        """Release the lock."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock during a ``with`` block."""
        self.lock()
        try:
            yield
        finally:
            self.unlock()


class Mapped:
    """A shared file of numbers, opened by one process.

    Each process opens the file itself, since flock belongs to an opening: a descriptor inherited by
    fork would share the parent's lock. A file without a name can be opened as ``/proc/self/fd/N``,
    and leaves nothing behind.

    Args:
        path: path of the file.
        worker: number of this process, different from the numbers of all other live processes.

    Attributes:
        numbers: the signed 64-bit numbers of the file.
        lock: excludes other processes.

    Raises:
        GatewayError: the worker number is out of range.
    """

    def __init__(self, path: str, worker: int) -> None:
        if not 0 <= worker < WORKERS:
            raise GatewayError(f"there is no worker {worker}; at most {WORKERS} share a gateway")
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.worker = worker
        self.numbers = memoryview(mmap.mmap(self._handle, 0)).cast("q")
        self.lock = FileLock(self._handle)

    def close(self) -> None:
        """Close the file; its numbers may not be used afterwards."""
        os.close(self._handle)


def make(handle: int, numbers: int) -> None:
    """Reserve room for numbers in an empty file, all of them 0.

    Args:
        handle: descriptor of the file.
        numbers: how many.

    Raises:
        GatewayError: the file system has no room.
    """
    try:
        # Reserved now: a write to a mapped page of a full file system ends the process with SIGBUS.
        os.posix_fallocate(handle, 0, numbers * SIZE)
    except OSError as error:
        raise GatewayError(f"no room for the workers' shared counts: {error.strerror}") from error


@contextlib.contextmanager
def nameless(numbers: int) -> Iterator[str]:
    """Make a nameless file in memory for the gateway's processes; yields a path to the file.

    The file ends with the last process that has it open.

    Raises:
        GatewayError: the file system has no room.
    """
    folder = FOLDER if os.access(FOLDER, os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder) as file:
        make(file.fileno(), numbers)
        yield f"/proc/self/fd/{file.fileno()}"
