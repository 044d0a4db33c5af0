"""How many requests are under way, and whether new ones are let in."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Guest(Protocol):
    """What is under way and can be ended."""

    def expire(self) -> None:
        """End, as the server must."""


class Gate:
    """Counts requests, refuses new ones while the server ends, and ends the last of them.

    Attributes:
        idle: set while no request is under way.
        draining: new requests are refused.
        expired: done when those under way must end too.
    """

    def __init__(self) -> None:
        self._active = 0
        self._guests: set[Guest] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False
        self.expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self._active

    def enter(self, guest: Guest | None = None) -> None:
        """Count a request from its first byte.

        Args:
            guest: the request, where it has to be told when the time is over.
        """
        if not self._active:
            self.idle.clear()
        self._active += 1
        if guest is not None:
            self._guests.add(guest)

    def leave(self, guest: Guest | None = None) -> None:
        """Count it no more, after its last byte."""
        self._active -= 1
        if guest is not None:
            self._guests.discard(guest)
        if not self._active:
            self.idle.set()

    def expire(self) -> None:
        """End what is under way."""
        self.draining = True
        if not self.expired.done():
            self.expired.set_result(None)
        for guest in tuple(self._guests):
            guest.expire()
