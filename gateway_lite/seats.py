"""What the balancer knows of one replica: its load, its failures, its warmth, its movement."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from gateway_lite.lease import Lease
    from gateway_lite.replicas import Replica
    from gateway_lite.slots import Slots

FAILURES = 3
"""Failures in a row after which a replica is left alone for a while."""
FIRST_S = 5.0
LONGEST_S = 60.0
"""Seconds that it is left alone: the first time, and at most."""
WARMING_S = 30.0
"""Seconds until a replica that joined late gets its full share."""
COLDEST = 0.1


@dataclass(frozen=True, slots=True)
class Seen:
    """What others may learn of a replica's state.

    Attributes:
        outstanding: requests from their selection to their last byte.
        tokens: the estimate of their tokens.
        breaker: "closed", "open" or "half-open".
        stalled_s: seconds without any movement while requests wait.
        stalled: that is too long, so that it gets no more of them.
    """

    outstanding: int
    tokens: int
    breaker: str
    stalled_s: float
    stalled: bool = False


class Seat:
    """One replica in the balancer.

    Args:
        replica: the upstream.
        now: clock.
        warm: it gets its full share at once.
        rng: spreads the ends of pauses.
        shared: its slots where other processes use them too; None where it has none, or is ours.
    """

    def __init__(
        self,
        replica: Replica,
        now: float,
        rng: random.Random,
        *,
        warm: bool,
        shared: Slots | None = None,
    ) -> None:
        self.replica = replica
        self.shared = shared
        self.key = replica.key
        self.salt = zlib.crc32(replica.key.encode())
        self.leases: set[Lease] = set()
        self.tokens = 0
        self.moves = 0
        self.stalled = False
        self.still_s = 0.0
        self._moves_seen = 0
        self._failures = 0
        self._open_until = 0.0
        self._probing = False
        self._warm_at = now if warm else now + WARMING_S
        self._rng = rng

    @property
    def free(self) -> bool:
        """Whether it has a slot."""
        slots = self.replica.slots
        if slots is None:
            return True
        return len(self.leases) < slots if self.shared is None else self.shared.free()

    def well(self, now: float) -> bool:
        """Tell whether it should get requests; one at a time tries it after a pause."""
        if self.stalled:
            return False
        return self._failures < FAILURES or (self._open_until <= now and not self._probing)

    def warmth(self, now: float) -> float:
        """Return its share of what a warm replica gets, from COLDEST to 1."""
        left_s = self._warm_at - now
        return 1.0 if left_s <= 0 else max(COLDEST, 1 - left_s / WARMING_S)

    def load(self, now: float) -> float:
        """Return its outstanding work, as it compares with that of others."""
        return self.tokens if now >= self._warm_at else (self.tokens + 1) / self.warmth(now)

    def take(self, lease: Lease, tokens: int) -> bool:
        """Count a request; False where another process had the last slot meanwhile."""
        if self.shared is not None and not self.shared.take():
            return False
        self.leases.add(lease)
        self.tokens += tokens
        if self._failures >= FAILURES:
            self._probing = True
        return True

    def give(self, lease: Lease, tokens: int) -> None:
        """Count it no more."""
        self.leases.discard(lease)
        self.tokens -= tokens
        if self.shared is not None:
            self.shared.give()

    def succeeded(self) -> None:
        """Note that it answered."""
        self.moves += 1
        if self._failures:
            self._failures = 0
            self._open_until = 0.0
            self._probing = False

    def failed(self, now: float, *, unreachable: bool) -> None:
        """Note that it did not; one that cannot even be reached is left alone at once."""
        self._probing = False
        self._failures += FAILURES if unreachable and self._failures < FAILURES else 1
        rounds = self._failures - FAILURES
        if rounds >= 0:
            pause_s = min(LONGEST_S, FIRST_S * 2.0 ** min(rounds, 10))
            self._open_until = now + pause_s * self._rng.uniform(0.75, 1.0)

    def undecided(self) -> None:
        """Note that a request ended without telling how the replica is."""
        self._probing = False

    def watch(self, passed_s: float, stall_s: float) -> bool:
        """Note time that passed; True when it has just stalled.

        Args:
            passed_s: seconds since the last look.
            stall_s: seconds without movement, while requests wait, that are too many.
        """
        if self.moves != self._moves_seen or not self.leases:
            self._moves_seen, self.still_s = self.moves, 0.0
            self.stalled = False
            return False
        self.still_s += passed_s
        before, self.stalled = self.stalled, self.still_s >= stall_s
        return self.stalled and not before

    def seen(self, now: float) -> Seen:
        """Return what others may learn."""
        if self._failures < FAILURES:
            breaker = "closed"
        else:
            breaker = "open" if now < self._open_until else "half-open"
        return Seen(len(self.leases), self.tokens, breaker, self.still_s, self.stalled)
