"""The patience of tests, and a wait for a condition."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0
"""Seconds after which an awaited thing is taken for hung; no statement on its speed."""
POLL_S = 0.02


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
    """Return the first true result of a condition.

    Args:
        condition: called until its result is true.
        timeout: seconds, ``PATIENCE_S`` or more.

    Raises:
        AssertionError: the condition did not become true in time.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"not within {timeout} s")
