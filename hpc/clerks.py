"""Which machine's clerk sees to a batch that came through a gateway."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from hpc import orders, state

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.orders import Order

BEAT_S = 2.0
STALE_S = 20.0
"""Age at which a clerk's heartbeat no longer proves life."""


def lock_path(root: Path, hostname: str) -> Path:
    """Return what the clerk of a machine holds for as long as it runs."""
    return root / "orders" / "clerks" / hostname


def beat(root: Path, hostname: str) -> None:
    """Say that the clerk of a machine lives.

    Raises:
        StateError: it cannot be written.
    """
    state.write_text(_beat(root, hostname), f"{time.time()}\n")


def rest(root: Path, hostname: str) -> None:
    """Say that the clerk of a machine has ended."""
    with contextlib.suppress(OSError):
        _beat(root, hostname).unlink(missing_ok=True)


def lives(root: Path, hostname: str) -> bool:
    """Tell whether a machine's clerk was heard of lately."""
    text = (state.read_text(_beat(root, hostname)) or "").strip()
    try:
        return abs(time.time() - float(text)) < STALE_S
    except ValueError:
        return False


def elsewhere(root: Path, order: Order, hostname: str) -> bool:
    """Tell whether another machine's clerk sees to a batch, or its gateway will start one.

    Args:
        root: the state directory.
        order: the batch.
        hostname: of this machine.
    """
    theirs = orders.load_progress(root, order).hostname or order.hostname
    if theirs == hostname:
        return False
    record = state.load_gateway(root, theirs)
    beats = record is not None and time.time() - record.beat_at < state.STALE_S
    return beats or lives(root, theirs)


def _beat(root: Path, hostname: str) -> Path:
    return lock_path(root, hostname).with_name(f"{hostname}.beat")
