"""The state of a replica in the balancer: load, failures, warm-up and progress."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    import random
    from collections import deque
    from collections.abc import Callable, Collection

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.routing.shared_slots import Slots

FAILURES = 3
"""Failures in a row that open the breaker of a replica."""
FIRST_S = 5.0
LONGEST_S = 60.0
"""Seconds that an open breaker keeps requests away: at first, and at most."""
WARMING_S = 30.0
"""Seconds until a replica that joined late gets its full share."""
COLDEST = 0.1


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """A snapshot of a replica's state, for metrics and status pages.

    Attributes:
        outstanding: requests between selection and their last byte.
        tokens: estimated tokens of the outstanding requests.
        breaker: "closed", "open" or "half-open".
        stalled_s: seconds without progress while requests are outstanding.
        stalled: True once ``stalled_s`` is too long; the replica then gets no further requests.
    """

    outstanding: int
    tokens: int
    breaker: str
    stalled_s: float
    stalled: bool = False


class ReplicaState:
    """The balancer's state of a replica.

    Args:
        replica: the upstream.
        now: current clock value in seconds.
        warm: True gives the replica its full share at once.
        rng: spreads the ends of pauses.
        shared: slots shared with other worker processes; None without a limit or with one process.
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
        """Whether the replica has a free slot."""
        slots = self.replica.slots
        if slots is None:
            return True
        return len(self.leases) < slots if self.shared is None else self.shared.free()

    def well(self, now: float) -> bool:
        """Return whether the replica should get requests; after a pause, a single probe."""
        if self.stalled:
            return False
        return self._failures < FAILURES or (self._open_until <= now and not self._probing)

    def warmth(self, now: float) -> float:
        """Return the replica's share of a warm replica's load, from COLDEST to 1."""
        left_s = self._warm_at - now
        return 1.0 if left_s <= 0 else max(COLDEST, 1 - left_s / WARMING_S)

    def load(self, now: float) -> float:
        """Return the outstanding tokens, scaled up while the replica warms up."""
        # Plus 1, so that a cold and idle replica does not look as free as a warm and idle replica.
        return self.tokens if now >= self._warm_at else (self.tokens + 1) / self.warmth(now)

    def take(self, lease: Lease, tokens: int) -> bool:
        """Count a request; return False if another process took the last slot meanwhile."""
        if self.shared is not None and not self.shared.take():
            return False
        self.leases.add(lease)
        self.tokens += tokens
        if self._failures >= FAILURES:
            self._probing = True
        return True

    def give(self, lease: Lease, tokens: int) -> None:
        """Remove a request from the counts."""
        self.leases.discard(lease)
        self.tokens -= tokens
        if self.shared is not None:
            self.shared.give()

    def succeeded(self) -> None:
        """Record an answered request, and close the breaker."""
        self.moves += 1
        if self._failures:
            self._failures = 0
            self._open_until = 0.0
            self._probing = False

    def failed(self, now: float, *, unreachable: bool) -> None:
        """Record a failed request; an unreachable replica opens the breaker at once."""
        self._probing = False
        self._failures += FAILURES if unreachable and self._failures < FAILURES else 1
        rounds = self._failures - FAILURES
        if rounds >= 0:
            # The exponent is bounded, as a replica may stay away for thousands of failures.
            pause_s = min(LONGEST_S, FIRST_S * 2.0 ** min(rounds, 10))
            # Random ends keep the workers of a gateway from probing all at the same moment.
            self._open_until = now + pause_s * self._rng.uniform(0.75, 1.0)

    def undecided(self) -> None:
        """Record a request without evidence about the replica, for example after a cancellation."""
        self._probing = False

    def watch(self, passed_s: float, stall_s: float) -> bool:
        """Count time without progress; return True at the moment of a new stall.

        Args:
            passed_s: seconds since the last call.
            stall_s: seconds without progress, with requests outstanding, that make a stall.
        """
        if self.moves != self._moves_seen or not self.leases:
            self._moves_seen, self.still_s = self.moves, 0.0
            self.stalled = False
            return False
        self.still_s += passed_s
        before, self.stalled = self.stalled, self.still_s >= stall_s
        return self.stalled and not before

    def seen(self, now: float) -> ReplicaSnapshot:
        """Return a snapshot of the state."""
        if self._failures < FAILURES:
            breaker = "closed"
        else:
            breaker = "open" if now < self._open_until else "half-open"
        return ReplicaSnapshot(len(self.leases), self.tokens, breaker, self.still_s, self.stalled)


Outcome = Literal["ok", "failed", "unreachable", "left"]


class LeaseOwner(Protocol):
    """The balancer, as seen by leases."""

    clock: Callable[[], float]

    def wake(self, model: str) -> None:
        """Give free slots to waiting requests."""

    def tell(self, model: str) -> None:
        """Publish a change of the queue to other worker processes."""


class RequestCost(msgspec.Struct, eq=False, gc=False):
    """The cost of one request, and the two keys by which prefix affinity chooses a replica.

    Attributes:
        tokens: estimated tokens of prompt and answer.
        prefix: shared beginning, such as the system prompt; empty if it does not matter.
        chat: beginning that only this conversation has.
        key: id of the client's key, for its share of the queue.
    """

    tokens: int = 1
    prefix: bytes = b""
    chat: bytes = b""
    key: str = ""


class Lease(msgspec.Struct, eq=False):
    """A slot at a replica, held until its release.

    Attributes:
        owner: the balancer; None after the release.
        model: name of the model.
        state: state of the replica.
        tokens: cost of the request.
        replica: the replica.
        on_stall: called when the replica stalls while the lease is held; may be None.
    """

    owner: LeaseOwner | None
    model: str
    state: ReplicaState
    tokens: int
    replica: Replica
    on_stall: Callable[[], None] | None = None

    def moved(self) -> None:
        """Record that bytes arrived from the replica."""
        self.state.moves += 1

    def release(self, outcome: Outcome) -> None:
        """Release the lease with an outcome; a second release does nothing."""
        owner, self.owner = self.owner, None
        if owner is None:
            return
        self.on_stall = None
        state = self.state
        state.give(self, self.tokens)
        if outcome == "ok":
            state.succeeded()
        elif outcome == "left":
            state.undecided()
        else:
            state.failed(owner.clock(), unreachable=outcome == "unreachable")
        # Last: the queue must find the slot free and the replica's new state.
        owner.wake(self.model)


class QueuedRequest:
    """The queue entry of a request that waits for a slot."""

    __slots__ = ("_model", "_owner", "_queue", "done", "since", "tried", "work")

    def __init__(
        self,
        owner: LeaseOwner,
        model: str,
        queue: deque[QueuedRequest],
        work: RequestCost,
        tried: Collection[str],
        done: Callable[[Lease | Exception], None],
    ) -> None:
        self._owner = owner
        self._model = model
        self._queue = queue
        self.work = work
        self.tried = tried
        self.done = done
        self.since = owner.clock()
        queue.append(self)
        owner.tell(model)

    def cancel(self) -> None:
        """Leave the queue."""
        if self in self._queue:
            self._queue.remove(self)
            self._owner.tell(self._model)
