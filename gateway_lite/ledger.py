"""The accounts of all keys: in this process, or in memory that several processes share."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

from gateway_lite.account import CELLS, NAME, Account, Guard
from gateway_lite.mapped import Mapped
from hpc.errors import GatewayError
from hpc.use import Use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableSequence

    Cells = MutableSequence[int]

KEYS = 1024
"""Keys for which a shared file has room."""
NUMBERS = KEYS * CELLS


class Store(Protocol):
    """Where accounts have their cells.

    Attributes:
        guard: keeps other processes out; None where there are none.
        worker: number of this process.
    """

    guard: Guard | None
    worker: int

    def cells(self, name: str) -> Cells:
        """Return the cells of a key's account, new ones where it has none; takes the guard."""

    def known(self) -> dict[str, Cells]:
        """Return the cells of all accounts; the caller holds the guard."""


class Ledger:
    """The accounts of all keys; for one thread.

    Args:
        store: where they have their cells.
        clock: seconds that never go back, the same in all processes.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store or Private()
        self._clock = clock
        self._wall = wall
        self._accounts: dict[str, Account] = {}

    def account(self, name: str) -> Account:
        """Return a key's account.

        Raises:
            GatewayError: there is no room for another one.
        """
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = self._on(self._store.cells(name))
        return found

    def use(self) -> dict[str, Use]:
        """Return what all keys have used, here and in processes that share the cells."""
        with self._held():
            found = {name: self._on(cells).use() for name, cells in self._store.known().items()}
        return {name: use for name, use in found.items() if use != Use()}

    def add(self, news: Mapping[str, tuple[int, int]]) -> None:
        """Count tokens and requests that no limit is asked for, by key."""
        accounts = [(self.account(name), counts) for name, counts in news.items()]
        with self._held():
            for account, (tokens, requests) in accounts:
                account.add(tokens, requests)

    def begin(self, known: Mapping[str, Use]) -> None:
        """Go on from what an earlier process counted."""
        accounts = [(self.account(name), use) for name, use in known.items()]
        with self._held():
            for account, use in accounts:
                account.begin(use)

    def elsewhere(self, known: Mapping[str, Use]) -> None:
        """Count towards budgets what other gateways counted."""
        accounts = [(self.account(name), use) for name, use in known.items()]
        with self._held():
            for account, use in accounts:
                account.elsewhere(use)

    def repair(self) -> None:
        """End what an earlier process with our number left, also where it was cut off."""
        with self._held():
            for cells in self._store.known().values():
                self._on(cells).repair()

    def _on(self, cells: Cells) -> Account:
        return Account(cells, self._store.guard, self._store.worker, self._clock, self._wall)

    @contextmanager
    def _held(self) -> Iterator[None]:
        guard = self._store.guard
        if guard is None:
            yield
            return
        guard.lock()
        try:
            yield
        finally:
            guard.unlock()


class Private:
    """Cells of this process alone."""

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
    """Cells in a mapped file, one slot per key, for several processes.

    Args:
        path: a file of NUMBERS numbers, at first all 0.
        worker: number of this process; no other one alive has it.
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
            self._lock.lock()
            try:
                self._look()
                if name not in self._known:
                    self._take(name)
            finally:
                self._lock.unlock()
        return self._known[name]

    def known(self) -> dict[str, Cells]:
        """Return the cells of all accounts; the caller holds the guard."""
        self._look()
        return self._known

    def close(self) -> None:
        """Let the file go; no account may be used after that."""
        self._known.clear()
        self._file.close()

    def _look(self) -> None:
        """Learn of accounts that other processes opened."""
        for slot in range(len(self._known), self._slots):
            mark = self._slot(slot)[NAME]
            if not mark:
                return
            self._known[f"{mark - 1:08x}"] = self._slot(slot)

    def _take(self, name: str) -> None:
        slot = len(self._known)
        if slot == self._slots:
            raise GatewayError(f"the gateway counts {slot} keys and has no room for another")
        cells = self._slot(slot)
        cells[NAME] = int(name, 16) + 1
        self._known[name] = cells

    def _slot(self, slot: int) -> Cells:
        return cast("Cells", self._file.numbers[slot * CELLS : (slot + 1) * CELLS])
