"""The requests in progress: their number, the admission of new ones, and an early end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Drainable(Protocol):
    """A request in progress that can be ended.

    Attributes:
        principal: the user that was admitted; None before the admission.
    """

    principal: Any

    def expire(self) -> None:
        """End the request, as the server must end."""

    def revoke(self) -> None:
        """End the request, as its key is no longer in force."""


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

    def revoke(self, in_force: Callable[[Any], bool]) -> None:
        """End the requests of users that are no longer admitted.

        Args:
            in_force: returns whether the admission of a request's user still holds.
        """
        # A copy: an ended request leaves the set at once.
        for guest in tuple(self._guests):
            if guest.principal is not None and not in_force(guest.principal):
                guest.revoke()

    def expire(self) -> None:
        """End all requests in progress."""
        self.draining = True
        if not self.expired.done():
            self.expired.set_result(None)
        # A copy: an expired request leaves the set at once.
        for guest in tuple(self._guests):
            guest.expire()
