"""Which replica takes a request: the one with the least outstanding work, ties at random.

Work is counted from selection to the last byte. An engine with a fixed number of slots gets no more
than that; further requests wait here, in order, in a bounded queue.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from gateway_lite.settings import Settings


class NoReplicaError(Exception):
    """A model has no replica that takes requests."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One upstream that takes requests now.

    Attributes:
        key: its identity; a job that was restarted is another one.
        name: what people call it.
        url: base address, without a trailing slash.
        secret: bearer token that it asks for, or None.
        slots: requests it serves at once, or None where it batches.
    """

    key: str
    name: str
    url: str
    secret: str | None = field(default=None, repr=False)
    slots: int | None = None


def choose(
    pool: Sequence[Replica],
    load: Mapping[str, int],
    *,
    avoid: Collection[str] = (),
    shunned: Collection[str] = (),
    rng: random.Random,
) -> Replica | None:
    """Return the replica for a request, or None where all slots are taken.

    Args:
        pool: those that take requests.
        load: outstanding requests by key.
        avoid: keys tried already; used again only where there is no other.
        shunned: keys that failed lately; used only where there is no other.
        rng: breaks ties.
    """
    fresh = [r for r in pool if r.key not in avoid] or list(pool)
    free = [r for r in fresh if r.slots is None or load.get(r.key, 0) < r.slots]
    sound = [r for r in free if r.key not in shunned] or free
    if not sound:
        return None
    least = min(load.get(r.key, 0) for r in sound)
    return rng.choice([r for r in sound if load.get(r.key, 0) == least])


class Lease:
    """A place at a replica, given back when its context ends."""

    def __init__(self, balancer: Balancer, replica: Replica) -> None:
        self.replica = replica
        self._balancer: Balancer | None = balancer

    def __enter__(self) -> Replica:
        """Return the replica."""
        return self.replica

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self.release()

    def release(self) -> None:
        """Give the place back, once."""
        balancer, self._balancer = self._balancer, None
        if balancer is not None:
            balancer.give_back(self.replica)


@dataclass(slots=True)
class _Waiter:
    place: asyncio.Future[Lease]
    avoid: AbstractSet[str]


class Balancer:
    """Places requests on replicas; used from one event loop.

    Args:
        settings: length of the queue and patience in it.
        rng: breaks ties.
    """

    def __init__(self, settings: Settings, rng: random.Random | None = None) -> None:
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311 - balance, not secrecy
        self._pools: Mapping[str, Sequence[Replica]] = {}
        self._load: Counter[str] = Counter()
        self._shunned: dict[str, float] = {}
        self._queues: defaultdict[str, deque[_Waiter]] = defaultdict(deque)

    def update(self, pools: Mapping[str, Sequence[Replica]]) -> None:
        """Take over the replicas that now serve each model."""
        self._pools = pools
        for model in list(self._queues):
            self._dispatch(model)

    def others(self, model: str, tried: AbstractSet[str]) -> bool:
        """Tell whether a model has a replica that was not tried."""
        return any(r.key not in tried for r in self._pools.get(model, ()))

    def shun(self, replica: Replica) -> None:
        """Try a replica last for a while, as it could not be reached."""
        self._shunned[replica.key] = time.monotonic() + self._settings.shun_s

    def outstanding(self, replica: Replica) -> int:
        """Return the requests a replica works on for us."""
        return self._load[replica.key]

    async def acquire(self, model: str, *, avoid: AbstractSet[str] = frozenset()) -> Lease:
        """Return a place at a replica, after a wait where all slots are taken.

        Args:
            model: the name at the gateway.
            avoid: keys of replicas tried already.

        Raises:
            NoReplicaError: none takes requests, or the last one left during the wait.
            ApiError: the queue is full, or the wait was too long.
        """
        queue = self._queues[model]
        if not queue and (lease := self._try(model, avoid)):
            return lease
        if len(queue) >= self._settings.queue_length:
            raise errors.queue_full(model)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        queue.append(waiter)
        try:
            await asyncio.wait({waiter.place}, timeout=self._settings.queue_s)
        except asyncio.CancelledError:
            self._leave(model, waiter)
            raise
        if not waiter.place.done():
            self._leave(model, waiter)
            raise errors.queue_timeout(model)
        return waiter.place.result()

    def give_back(self, replica: Replica) -> None:
        """Count one request less; called by leases."""
        self._load[replica.key] -= 1
        if self._load[replica.key] <= 0:
            del self._load[replica.key]
        for model, queue in list(self._queues.items()):
            if queue:
                self._dispatch(model)

    def _try(self, model: str, avoid: AbstractSet[str]) -> Lease | None:
        pool = self._pools.get(model)
        if not pool:
            raise NoReplicaError(model)
        now = time.monotonic()
        self._shunned = {key: until for key, until in self._shunned.items() if until > now}
        replica = choose(pool, self._load, avoid=avoid, shunned=self._shunned, rng=self._rng)
        if replica is None:
            return None
        self._load[replica.key] += 1
        return Lease(self, replica)

    def _dispatch(self, model: str) -> None:
        queue = self._queues[model]
        while queue:
            try:
                lease = self._try(model, queue[0].avoid)
            except NoReplicaError as error:
                queue.popleft().place.set_exception(error)
                continue
            if lease is None:
                return
            queue.popleft().place.set_result(lease)

    def _leave(self, model: str, waiter: _Waiter) -> None:
        """Take a waiter out that will not use its place."""
        if not waiter.place.done():
            self._queues[model].remove(waiter)
            self._dispatch(model)
        elif waiter.place.exception() is None:
            waiter.place.result().release()
