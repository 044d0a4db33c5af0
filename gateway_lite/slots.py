"""Slots of engines, shared by the workers of a gateway: never more requests than an engine serves.

Each replica that says how many requests it serves at once has a row in a mapped file. There each
worker notes how many it has under way, and since when the first of those that wait in it does. A
free slot is for the worker whose first waits longest; whoever sees one that is for another wakes
that. What a worker that was killed had is in columns of its own, which the process that looks
after the workers clears.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING

from gateway_lite.mapped import WORKERS, FileLock, Mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

# Where in a row each number stands; the columns of workers have one for each.
NAME, OPEN, USED = range(3)
SINCE = USED + WORKERS
CELLS = SINCE + WORKERS
ROWS = 1024
"""Replicas that are known at the same time."""
NUMBERS = ROWS * CELLS
NANO = 1_000_000_000


class Slots:
    """The slots of one replica, as one worker has to do with them; for one thread.

    Args:
        row: the replica's numbers.
        limit: slots that there are.
        lock: keeps other workers out.
        worker: our number.
        wake: tells a worker that it may take a slot.
    """

    __slots__ = ("_limit", "_lock", "_row", "_since", "_wake", "_worker")

    def __init__(
        self,
        row: memoryview[int],
        limit: int,
        lock: FileLock,
        worker: int,
        wake: Callable[[int], None],
    ) -> None:
        self._row = row
        self._limit = limit
        self._lock = lock
        self._worker = worker
        self._wake = wake
        self._since = 0

    def free(self) -> bool:
        """Tell whether there is one for us, beside those for workers that wait longer."""
        row, ours = self._row, self._since
        left = self._limit - sum(row[USED:SINCE])
        if left <= 0:
            return False
        others = sum(1 for at in row[SINCE:CELLS] if at and (not ours or at < ours))
        return others < left

    def take(self) -> bool:
        """Take one; False where another worker was faster."""
        self._lock.lock()
        try:
            found = self.free()
            if found:
                self._row[USED + self._worker] += 1
        finally:
            self._lock.unlock()
        return found

    def give(self) -> None:
        """Give one back; our own first is looked after by the caller."""
        self._lock.lock()
        try:
            self._row[USED + self._worker] -= 1
            first = self._first()
        finally:
            self._lock.unlock()
        if first is not None and first != self._worker:
            self._wake(first)

    def wait(self, since_s: float | None) -> None:
        """Note since when our first waits, by a clock that all workers share; None is nobody."""
        since = 0 if since_s is None else max(1, int(since_s * NANO))
        if since == self._since:
            return
        self._since = since
        with self._lock.held():
            self._row[SINCE + self._worker] = since
            first = self._first()
        if first is not None:
            self._wake(first)

    def close(self) -> None:
        """Note that nobody of ours waits, and that the row is kept for what is under way only."""
        self.wait(None)
        with self._lock.held():
            self._row[OPEN] &= ~(1 << self._worker)

    def _first(self) -> int | None:
        """Return the worker that a free slot is for; the caller holds the lock."""
        if sum(self._row[USED:SINCE]) >= self._limit:
            return None
        waiting = [(at, worker) for worker, at in enumerate(self._row[SINCE:CELLS]) if at]
        return min(waiting)[1] if waiting else None


def bells(count: int) -> tuple[int, ...]:
    """Make what wakes each of so many workers."""
    return tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count))


class SlotTable:
    """The rows of all replicas.

    Args:
        path: a file of NUMBERS numbers, at first all 0.
        worker: number of this process; no other one alive has it.
        bells: what wakes each of the workers.
    """

    def __init__(self, path: str, worker: int, bells: Sequence[int]) -> None:
        self._file = Mapped(path, worker)
        self._worker = worker
        self._bells = bells

    def open(self, key: str, limit: int) -> Slots | None:
        """Return a replica's slots, or None where there is no room to count them.

        Args:
            key: the replica's identity.
            limit: how many it has.
        """
        name = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big") + 1
        with self._file.lock.held():
            row = self._find(name)
            if row is None:
                log.error("no room for the slots of another replica: each worker counts its own")
                return None
            row[NAME] = name
            row[OPEN] |= 1 << self._worker
        return Slots(row, limit, self._file.lock, self._worker, self._ring)

    def clear(self, worker: int) -> None:
        """Give back what a worker had that has ended, and wake all others."""
        with self._file.lock.held():
            for row in self._rows():
                row[OPEN] &= ~(1 << worker)
                row[USED + worker] = row[SINCE + worker] = 0
        for each in range(len(self._bells)):
            self._ring(each)

    def listen(self, woken: Callable[[], None]) -> None:
        """Call something in the running loop whenever there may be a slot for us."""
        bell = self._bells[self._worker]

        def rung() -> None:
            os.eventfd_read(bell)
            woken()

        asyncio.get_running_loop().add_reader(bell, rung)

    def _ring(self, worker: int) -> None:
        os.eventfd_write(self._bells[worker], 1)

    def _find(self, name: int) -> memoryview[int] | None:
        """Return the row of that name, or one that nobody needs; the caller holds the lock."""
        spare = None
        for row in self._rows():
            if row[NAME] == name:
                return row
            if spare is None and not row[OPEN] and not any(row[USED:SINCE]):
                spare = row
        return spare

    def _rows(self) -> Iterator[memoryview[int]]:
        """Yield the rows that were ever used, and one more."""
        numbers = self._file.numbers
        for at in range(0, NUMBERS, CELLS):
            yield numbers[at : at + CELLS]
            if not numbers[at]:
                return
