"""What is left of batches whose submission or removal was killed in the middle."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from hpc import lock
from hpc.batch.files import RealFiles
from hpc.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

QUIET_S = 3600.0
"""Seconds without a write which prove that nobody writes, also where a file system has no locks."""


def holding(folder: Path) -> AbstractContextManager[None]:
    """Keep others from taking a folder for a leftover while a batch is taken in.

    The kernel ends it with the process, however that ends.

    Args:
        folder: the batch.
    """
    return lock.exclusive(folder / "intake")


def sweep(root: Path) -> None:
    """Remove what nobody writes any more; what cannot be removed stays for the next time.

    Args:
        root: state directory.
    """
    for name in RealFiles().names(root / "batches"):
        folder = root / "batches" / name
        if name.startswith("."):  # its removal had begun
            shutil.rmtree(folder, ignore_errors=True)
            continue
        with suppress(OSError):
            if _is_quiet(folder):
                _remove(folder)


def _remove(folder: Path) -> None:
    with suppress(OSError, StateError), lock.exclusive(folder / "intake", patience_s=0):
        if not (folder / "spec.json").exists():
            gone = folder.with_name(f".{folder.name}")
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _is_quiet(folder: Path) -> bool:
    """Tell whether a batch was not taken in, and nothing of it was written lately."""
    if (folder / "spec.json").exists() or not folder.is_dir():
        return False
    newest = max(one.stat().st_mtime for one in (folder, *folder.iterdir()))
    return time.time() - newest > QUIET_S
