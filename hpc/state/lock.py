"""A lock for files that several commands may write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.state.files import make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 15.0
POLL_S = 0.02
BUSY = frozenset({errno.EAGAIN, errno.EACCES})
UNKNOWN = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""Errors of a file system without locks, as some clusters mount theirs."""


@contextmanager
def exclusive(path: Path, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep out other processes that ask for the same file; the file itself is never locked.

    The kernel releases the lock with the process, so no stale lock stays; Linux passes the lock
    to the server of an NFS mount. On a file system without locks the caller goes on without.

    Args:
        path: the file to be read and replaced.
        patience_s: seconds to wait for another process.

    Raises:
        StateError: another process does not finish, or the folder is not writable.
    """
    # Beside the file: writers replace the file, and a lock on a replaced file protects nobody.
    beside = path.with_name(f".{path.name}.lock")
    try:
        make_folder(path.parent)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"cannot write {beside}: {error.strerror}") from error
    try:
        _take(handle, path, time.monotonic() + patience_s)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


def _take(handle: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in UNKNOWN:
                return
            if error.errno not in BUSY:
                raise StateError(f"cannot lock {path}: {error.strerror}") from error
        else:
            return
        if time.monotonic() > deadline:
            raise StateError(f"another command has been changing {path} for too long")
        time.sleep(POLL_S)
