"""Remains of batches whose submission or removal was killed half-way."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from hpc.batch.folder import BatchFolder
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.errors import StateError
from hpc.state import directory, lock

if TYPE_CHECKING:
    from pathlib import Path

QUIET_S = 3600.0
"""Seconds without a write that prove a dead intake, even on a file system without locks."""


def holding(folder: Path) -> AbstractContextManager[None]:
    """Mark a folder as in use while its batch is taken in.

    The kernel releases the mark with the process, however the process ends.

    Args:
        folder: the batch.
    """
    return lock.exclusive(BatchFolder(folder).intake)


def sweep(root: Path) -> None:
    """Remove abandoned batch folders; a folder that cannot be removed stays for the next sweep.

    Args:
        root: state directory.
    """
    for name in RealFileSystem().names(directory.batches_dir(root)):
        folder = directory.batch_dir(root, name)
        if name.startswith("."):  # renamed by a removal that was killed half-way
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with suppress(OSError):
            if _is_quiet(folder):
                _remove(folder)


def _remove(folder: Path) -> None:
    # The lock and the second look settle the race with an intake that completes just now.
    with suppress(OSError, StateError), lock.exclusive(BatchFolder(folder).intake, patience_s=0):
        if not BatchFolder(folder).spec.exists():
            drop(folder)


def drop(folder: Path) -> None:
    """Remove the folder of a batch; killed half-way, the next sweep goes on.

    Raises:
        OSError: the folder cannot be renamed.
    """
    gone = folder.with_name(f".{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _is_quiet(folder: Path) -> bool:
    """Return whether an intake never completed and had no write for ``QUIET_S`` seconds."""
    if BatchFolder(folder).spec.exists() or not folder.is_dir():
        return False
    newest = max(one.stat().st_mtime for one in (folder, *folder.iterdir()))
    return time.time() - newest > QUIET_S
