"""The number of requests in progress, and the admission of new requests."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Drainable(Protocol):
    """A request in progress that can be ended."""

    def expire(self) -> None:
        """End the request, as the server must end."""


class InFlight:
    """The count of requests; refuses new requests while the server ends, and ends the last ones.

    Attributes:
        idle: set while no request is in progress.
        draining: True once new requests are refused.
        expired: done when requests in progress must end too.
    """

    def __init__(self) -> None:
        self._active = 0
        self._guests: set[Drainable] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.draining = False
        self.expired: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def enter(self, guest: Drainable | None = None) -> None:
        """Count a request from its first byte.

        Args:
            guest: the request, if it must be told about the deadline.
        """
        if not self._active:
            self.idle.clear()
        self._active += 1
        if guest is not None:
            self._guests.add(guest)

    def leave(self, guest: Drainable | None = None) -> None:
        """Remove a request from the count, after its last byte."""
        self._active -= 1
        if guest is not None:
            self._guests.discard(guest)
        if not self._active:
            self.idle.set()

    def expire(self) -> None:
        """End all requests in progress."""
        self.draining = True
        if not self.expired.done():
            self.expired.set_result(None)
        # A copy: an expired request leaves the set at once.
        for guest in tuple(self._guests):
            guest.expire()
