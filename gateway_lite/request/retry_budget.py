"""The budget of second attempts, as in Finagle: failing replicas are not asked ever more."""

from __future__ import annotations

RETRY_SHARE = 0.2
"""Retries earned by each request."""
RETRIES_PER_S = 10.0
MOST_RETRIES = 500.0
"""Retries that may be saved up; a dying replica fails all its requests in progress at once."""


class RetryBudget:
    """The retries that are left."""

    def __init__(self) -> None:
        self._left = MOST_RETRIES

    def deposit(self) -> None:
        """Add the share of one request."""
        if self._left < MOST_RETRIES:
            self._left += RETRY_SHARE

    def passed(self, seconds: float) -> None:
        """Add the retries of passed seconds."""
        self._left = min(MOST_RETRIES, self._left + RETRIES_PER_S * seconds)

    def withdraw(self) -> bool:
        """Take a retry; return False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
