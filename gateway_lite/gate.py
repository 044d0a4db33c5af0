"""How many requests are under way, and whether new ones are let in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Gate:
    """Counts requests, refuses new ones while the server ends, and ends the last of them.

    Attributes:
        idle: set while no request is under way.
        draining: new requests are refused.
        expired: done when those under way must end too.
    """

    def __init__(self) -> None:
        self._active = 0
        self._cuts: set[Callable[[], None]] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False
        self.expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self._active

    def enter(self, cut: Callable[[], None] | None = None) -> None:
        """Count a request from its first byte.

        Args:
            cut: ends it when the time is over; the same object that leaves.
        """
        self._active += 1
        self.idle.clear()
        if cut is not None:
            self._cuts.add(cut)

    def leave(self, cut: Callable[[], None] | None = None) -> None:
        """Count it no more, after its last byte."""
        self._active -= 1
        if cut is not None:
            self._cuts.discard(cut)
        if not self._active:
            self.idle.set()

    def expire(self) -> None:
        """End what is under way."""
        self.draining = True
        if not self.expired.done():
            self.expired.set_result(None)
        for cut in tuple(self._cuts):
            cut()
