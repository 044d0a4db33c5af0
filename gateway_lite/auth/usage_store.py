"""The usage store: accounts of all keys, in this process or in shared memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, cast

from gateway_lite.auth.usage_counters import CELLS, NAME, Guard, UsageWindow, held
from gateway_lite.shared_memory import Mapped
from hpc.errors import GatewayError
from hpc.keys.usage import Use

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableSequence

    Cells = MutableSequence[int]

KEYS = 1024
"""Keys that fit into a shared file."""
NUMBERS = KEYS * CELLS


class WindowStore(Protocol):
    """The memory that holds the cells of accounts.

    Attributes:
        guard: keeps other processes out; None without other processes.
        worker: number of this process.
    """

    guard: Guard | None
    worker: int

    def cells(self, name: str) -> Cells:
        """Return the cells of a key's account, new cells if needed; takes the guard."""

    def known(self) -> dict[str, Cells]:
        """Return the cells of all accounts; the caller holds the guard."""


class UsageStore:
    """The accounts of all keys; for use by one thread.

    Args:
        store: the memory for cells; None is this process alone.
        clock: returns monotonic seconds, the same in all processes.
        wall: returns seconds since 1970.
    """

    def __init__(
        self,
        store: WindowStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store or Private()
        self._clock = clock
        self._wall = wall
        self._accounts: dict[str, UsageWindow] = {}

    def account(self, name: str) -> UsageWindow:
        """Return a key's account.

        Raises:
            GatewayError: the store has no room for another account.
        """
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = self._on(self._store.cells(name))
        return found

    def use(self) -> dict[str, Use]:
        """Return the usage of all keys, in all processes that share the cells."""
        with held(self._store.guard):
            found = {name: self._on(cells).use() for name, cells in self._store.known().items()}
        return {name: use for name, use in found.items() if use != Use()}

    def add(self, news: Mapping[str, tuple[int, int]]) -> None:
        """Count tokens and requests by key, for keys without limits."""
        # Accounts first: opening an account takes the guard, which does not nest.
        accounts = [(self.account(name), counts) for name, counts in news.items()]
        with held(self._store.guard):
            for account, (tokens, requests) in accounts:
                account.add(tokens, requests)

    def begin(self, known: Mapping[str, Use]) -> None:
        """Continue from the counts of an earlier process."""
        accounts = [(self.account(name), use) for name, use in known.items()]
        with held(self._store.guard):
            for account, use in accounts:
                account.begin(use)

    def elsewhere(self, known: Mapping[str, Use]) -> None:
        """Count the usage at other gateways towards budgets."""
        accounts = [(self.account(name), use) for name, use in known.items()]
        with held(self._store.guard):
            for account, use in accounts:
                account.elsewhere(use)

    def repair(self) -> None:
        """Remove the requests in progress of an earlier process with our number.

        The sums are made anew too, as the process may have been killed between two writes.
        """
        with held(self._store.guard):
            for cells in self._store.known().values():
                self._on(cells).repair()

    def _on(self, cells: Cells) -> UsageWindow:
        return UsageWindow(cells, self._store.guard, self._store.worker, self._clock, self._wall)


class Private:
    """Cells in this process alone."""

    guard: Guard | None = None
    worker = 0

    def __init__(self) -> None:
        self._known: dict[str, Cells] = {}

    def cells(self, name: str) -> Cells:
        """Return the cells of a key's account."""
        return self._known.setdefault(name, [0] * CELLS)

    def known(self) -> dict[str, Cells]:
        """Return the cells of all accounts."""
        return dict(self._known)


class Shared:
    """Cells in a mapped file for several processes, with one slot for each key.

    Args:
        path: a file of NUMBERS numbers, initially all 0.
        worker: number of this process, different from the numbers of all other live processes.
    """

    def __init__(self, path: str, worker: int) -> None:
        self._file = Mapped(path, worker)
        self._lock = self._file.lock
        self._slots = len(self._file.numbers) // CELLS
        self._known: dict[str, Cells] = {}
        self.guard: Guard | None = self._lock
        self.worker = worker

    def cells(self, name: str) -> Cells:
        """Return the cells of a key's account.

        Raises:
            GatewayError: all slots are taken.
        """
        if name not in self._known:
            with held(self._lock):
                self._look()
                if name not in self._known:
                    self._take(name)
        return self._known[name]

    def known(self) -> dict[str, Cells]:
        """Return the cells of all accounts; the caller holds the guard."""
        self._look()
        return self._known

    def close(self) -> None:
        """Close the file; its accounts may not be used afterwards."""
        self._known.clear()
        self._file.close()

    def _look(self) -> None:
        """Find the accounts opened by other processes."""
        for slot in range(len(self._known), self._slots):
            mark = self._slot(slot)[NAME]
            # Slots are taken in order and never returned, so the first empty slot ends the search.
            if not mark:
                return
            self._known[f"{mark - 1:08x}"] = self._slot(slot)

    def _take(self, name: str) -> None:
        slot = len(self._known)
        if slot == self._slots:
            raise GatewayError(f"the gateway counts {slot} keys and has no room for another")
        cells = self._slot(slot)
        # Plus 1, as 0 marks an empty slot and the id 00000000 is the anonymous key.
        cells[NAME] = int(name, 16) + 1
        self._known[name] = cells

    def _slot(self, slot: int) -> Cells:
        return cast("Cells", self._file.numbers[slot * CELLS : (slot + 1) * CELLS])
