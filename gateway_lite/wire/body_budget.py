"""The memory budget of clients' bytes: bodies until the answer begins, answers until they are read.

A body of up to SMALL bytes is free: the number of connections bounds those. One key holds at most
half of the budget. When keys together fill the budget, the newest body of the key that holds the
most is refused, so that another key is served.
"""

from __future__ import annotations

from typing import Protocol

MIB = 1024 * 1024
SMALL = 16 * 1024
"""Bytes of a body that cost nothing: most chats, and less than a connection costs beside them."""
BODIES = 8
"""The budget as a multiple of the largest body; a key's half is four of the largest bodies."""
LEAST_BODIES = 2
"""Largest bodies for which each of several workers has room."""


class BudgetEntry(Protocol):
    """An owner of counted bytes."""

    def evict(self) -> None:
        """End, as the bytes are needed for another key; the budget has released them."""


class BodyBudget:
    """The counted bytes of one process, by key.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._sizes: dict[str, dict[BudgetEntry, int]] = {}
        self._sums: dict[str, int] = {}

    def take(self, key: str, entry: BudgetEntry, size: int) -> bool:
        """Count further bytes of an entry; return False if its key has no room for them.

        Args:
            key: id of the key; empty before a key is known. The same for all bytes of an entry.
            entry: the owner of the bytes.
            size: number of bytes.
        """
        if self._sums.get(key, 0) + size > self.limit // 2:
            return False
        while self.used + size > self.limit:
            heaviest = max(self._sums, key=self._sums.__getitem__)
            if heaviest == key:
                return False
            newest = next(reversed(self._sizes[heaviest]))
            # Released first: the end of the victim may run code that counts bytes again.
            self.release(heaviest, newest)
            newest.evict()
        sizes = self._sizes.setdefault(key, {})
        sizes[entry] = sizes.get(entry, 0) + size
        self._sums[key] = self._sums.get(key, 0) + size
        self.used += size
        return True

    def release(self, key: str, entry: BudgetEntry) -> None:
        """Forget all bytes of an entry; an unknown entry changes nothing."""
        sizes = self._sizes.get(key)
        size = 0 if sizes is None else sizes.pop(entry, 0)
        if not size:
            return
        self.used -= size
        self._sums[key] -= size
        if not sizes:
            del self._sizes[key], self._sums[key]


def budget_bytes(body_bytes: int, workers: int = 1) -> int:
    """Return the budget of one process.

    Args:
        body_bytes: the largest body.
        workers: processes that share the gateway's budget.
    """
    return max(LEAST_BODIES * body_bytes, BODIES * body_bytes // workers)
