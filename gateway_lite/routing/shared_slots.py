"""Engine slots shared by the workers of a gateway: no engine gets more requests than it serves.

Each replica with a limit of parallel requests has a row in a mapped file. In the row, each worker
writes its number of requests in progress, and the time since which its oldest request waits. A free
slot belongs to the worker whose oldest request has waited longest. A worker that finds a slot
reserved for another worker wakes that worker. Each worker has columns of its own, so that the
supervisor can clear the columns of a killed worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING

from gateway_lite.shared_memory import WORKERS, FileLock, Mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

# Positions in a row. USED and SINCE begin ranges with one column for each worker.
NAME, OPEN, USED = range(3)
SINCE = USED + WORKERS
CELLS = SINCE + WORKERS
ROWS = 1024
"""Replicas that can be known at the same time."""
NUMBERS = ROWS * CELLS
NANO = 1_000_000_000


class Slots:
    """The slots of a replica, as seen by a worker; for use by a single thread.

    Args:
        row: the replica's row.
        limit: number of slots.
        lock: excludes other workers.
        worker: number of this worker.
        wake: tells a worker that a slot may be free.
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
        """Return whether a slot is left for the worker, after all longer waiting workers."""
        # Read without the lock, as a hint for the choice of a replica; ``take`` reads again under
        # it.
        row, ours = self._row, self._since
        left = self._limit - sum(row[USED:SINCE])
        if left <= 0:
            return False
        others = sum(1 for at in row[SINCE:CELLS] if at and (not ours or at < ours))
        return others < left

    def take(self) -> bool:
        """Take a slot; return False if another worker was faster."""
        self._lock.lock()
        try:
            # ``lock`` and ``unlock`` by hand, as ``held`` would add a generator to each request.
            found = self.free()
            if found:
                self._row[USED + self._worker] += 1
        finally:
            self._lock.unlock()
        return found

    def give(self) -> None:
        """Release a slot, and wake the worker whose queued request is oldest.

        The caller serves its own queue.
        """
        self._lock.lock()
        try:
            self._row[USED + self._worker] -= 1
            first = self._first()
        finally:
            self._lock.unlock()
        # After the unlock: the woken worker would otherwise wait for the lock at once.
        if first is not None and first != self._worker:
            self._wake(first)

    def wait(self, since_s: float | None) -> None:
        """Publish the time since which this worker's oldest request waits.

        Args:
            since_s: seconds of a clock that all workers share; None if no request waits.
        """
        # 0 means that no request waits, so a real time is at least 1 ns.
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
        """Withdraw the waiting time, and keep the row only for the requests in progress."""
        self.wait(None)
        with self._lock.held():
            self._row[OPEN] &= ~(1 << self._worker)

    def _first(self) -> int | None:
        """Return the worker to which a free slot belongs; the caller holds the lock."""
        if sum(self._row[USED:SINCE]) >= self._limit:
            return None
        waiting = [(at, worker) for worker, at in enumerate(self._row[SINCE:CELLS]) if at]
        return min(waiting)[1] if waiting else None


def wakeups(count: int) -> tuple[int, ...]:
    """Create an eventfd for each worker, the signal of a free slot."""
    return tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count))


class SlotTable:
    """The rows of all replicas.

    Args:
        path: a file of NUMBERS numbers, initially all 0.
        worker: number of this process, different from the numbers of all other live processes.
        wakeups: eventfd of each worker.
    """

    def __init__(self, path: str, worker: int, wakeups: Sequence[int]) -> None:
        self._file = Mapped(path, worker)
        self._worker = worker
        self._wakeups = wakeups

    def open(self, key: str, limit: int) -> Slots | None:
        """Return a replica's slots, or None if the table has no free row.

        Args:
            key: identity of the replica.
            limit: number of its slots.
        """
        # 7 bytes fit a signed 64-bit cell, and + 1 keeps 0 for rows that were never used.
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
        """Release the slots of an ended worker, and wake all workers."""
        with self._file.lock.held():
            for row in self._rows():
                row[OPEN] &= ~(1 << worker)
                row[USED + worker] = row[SINCE + worker] = 0
        for each in range(len(self._wakeups)):
            self._ring(each)

    def listen(self, woken: Callable[[], None]) -> None:
        """Call a function in the running loop whenever a slot may be free for this worker."""
        bell = self._wakeups[self._worker]

        def rung() -> None:
            os.eventfd_read(bell)
            woken()

        asyncio.get_running_loop().add_reader(bell, rung)

    def _ring(self, worker: int) -> None:
        os.eventfd_write(self._wakeups[worker], 1)

    def _find(self, name: int) -> memoryview[int] | None:
        """Return the row of a name, or an unused row; the caller holds the lock."""
        spare = None
        for row in self._rows():
            if row[NAME] == name:
                return row
            if spare is None and not row[OPEN] and not any(row[USED:SINCE]):
                spare = row
        return spare

    def _rows(self) -> Iterator[memoryview[int]]:
        """Yield the rows in use or once used, and the first unused row."""
        numbers = self._file.numbers
        for at in range(0, NUMBERS, CELLS):
            yield numbers[at : at + CELLS]
            if not numbers[at]:
                return
