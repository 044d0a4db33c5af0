"""Which replica has the beginning of a request in its cache.

A conversation goes on where it was last: that replica has all that was said. One that is new goes
to the home of its prefix, by rendezvous hashing. Either only where the replica is not much busier
than the rest (consistent hashing with bounded loads, Mirrokni et al., 2018).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from gateway_lite.lease import Work
    from gateway_lite.seats import Seat

BOUND = 1.25
"""Load of a replica, as a multiple of the average, above which a prefix goes elsewhere."""
SLACK = 8
"""Requests that it may have more than the least loaded, whatever the average."""
CONVERSATIONS = 16384
"""How many are remembered; the one that was silent for longest is forgotten first."""


class Homes:
    """Where prefixes belong, and where conversations were last.

    Args:
        rng: draws.
    """

    __slots__ = ("_last", "_rng")

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: dict[int, str] = {}

    def find(self, seats: list[Seat], work: Work, now: float) -> Seat | None:
        """Return the replica that has most of a request, or None where that is too busy.

        Args:
            seats: two or more that may have it.
            work: what it weighs, and how it begins.
            now: clock.
        """
        last = self._last.get(hash(work.chat)) if work.chat else None
        if last is not None:
            for seat in seats:
                if seat.key == last and _fits(seat, seats, work):
                    return seat
        mark = zlib.crc32(work.prefix)
        home = max(seats, key=lambda seat: hash((mark, seat.salt)))
        warmth = home.warmth(now)
        if warmth < 1 and self._rng.random() > warmth:
            return None
        return home if _fits(home, seats, work) else None

    def keep(self, work: Work, seat: Seat) -> None:
        """Remember where a conversation is now."""
        if not work.chat:
            return
        known, chat = self._last, hash(work.chat)
        known.pop(chat, None)
        known[chat] = seat.key
        if len(known) > CONVERSATIONS:
            del known[next(iter(known))]


def _fits(home: Seat, seats: list[Seat], work: Work) -> bool:
    """Tell whether it is not much busier than the rest."""
    total = work.tokens
    least = len(home.leases)
    for seat in seats:
        total += seat.tokens
        least = min(least, len(seat.leases))
    if len(home.leases) - least < SLACK:
        return True
    return home.tokens + work.tokens <= BOUND * total / len(seats)
