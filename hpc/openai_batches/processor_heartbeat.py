"""Heartbeats of the batch processors, and the machine responsible for an OpenAI batch."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from hpc.openai_batches import records as batch_records
from hpc.state import directory, files

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.openai_batches.records import BatchRecord

BEAT_S = 2.0
STALE_S = 20.0
"""Age in seconds at which a processor's heartbeat no longer proves life."""


def lock_path(root: Path, hostname: str) -> Path:
    """Return the file that a machine's processor locks while running."""
    return directory.processor_lock_path(root, hostname)


def beat(root: Path, hostname: str) -> None:
    """Write a heartbeat of a machine's processor.

    Raises:
        StateError: the heartbeat cannot be written.
    """
    files.write_text(_beat(root, hostname), f"{time.time()}\n")


def rest(root: Path, hostname: str) -> None:
    """Remove the heartbeat of a machine's processor after its end."""
    with contextlib.suppress(OSError):
        _beat(root, hostname).unlink(missing_ok=True)


def lives(root: Path, hostname: str) -> bool:
    """Return whether a machine's processor has a recent heartbeat."""
    text = (files.read_text(_beat(root, hostname)) or "").strip()
    try:
        # abs: with a clock ahead of ours, a heartbeat lies in the future.
        return abs(time.time() - float(text)) < STALE_S
    except ValueError:
        return False


def elsewhere(root: Path, order: BatchRecord, hostname: str) -> bool:
    """Return whether another machine's processor is, or soon will be, responsible for a batch.

    Args:
        root: the state directory.
        order: the batch record.
        hostname: name of this machine.
    """
    theirs = batch_records.load_progress(root, order).hostname or order.hostname
    if theirs == hostname:
        return False
    record = directory.load_gateway(root, theirs)
    # A living gateway without a processor starts one, so its batches are left alone too.
    beats = record is not None and abs(time.time() - record.beat_at) < directory.STALE_S
    return beats or lives(root, theirs)


def _beat(root: Path, hostname: str) -> Path:
    return lock_path(root, hostname).with_name(f"{hostname}.beat")
