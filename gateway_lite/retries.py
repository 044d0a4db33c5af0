"""How many second attempts are allowed, so that a failing service is not asked ever more.

The rule is Finagle's: a share of the requests, and a few each second whatever their number.
"""

from __future__ import annotations

SHARE = 0.2
"""Retries per request."""
PER_S = 10.0
MOST = 500.0
"""Retries that may be saved up: a replica that dies takes all that were on their way to it."""


class RetryBudget:
    """Retries that are left."""

    def __init__(self) -> None:
        self._left = MOST

    def deposit(self) -> None:
        """Note a request."""
        if self._left < MOST:
            self._left += SHARE

    def passed(self, seconds: float) -> None:
        """Note time that passed."""
        self._left = min(MOST, self._left + PER_S * seconds)

    def withdraw(self) -> bool:
        """Take a retry, if there is one."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
