"""The retry budget: bounds second attempts, so that a failing service gets no storm of retries.

The rule is Finagle's: a share of the requests, plus a few retries each second.
"""

from __future__ import annotations

SHARE = 0.2
"""Retries earned by each request."""
PER_S = 10.0
MOST = 500.0
"""Retries that may be saved up; a dying replica fails all its requests in progress at once."""


class RetryBudget:
    """The retries that are left."""

    def __init__(self) -> None:
        self._left = MOST

    def deposit(self) -> None:
        """Add the share of one request."""
        if self._left < MOST:
            self._left += SHARE

    def passed(self, seconds: float) -> None:
        """Add the retries of passed seconds."""
        self._left = min(MOST, self._left + PER_S * seconds)

    def withdraw(self) -> bool:
        """Take a retry; return False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
