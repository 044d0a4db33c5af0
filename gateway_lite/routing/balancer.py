"""The balancer: chooses a replica for each request, and queues requests without a free slot.

Requests with the same beginning go to the same replica, see ``homes``. Other requests go to the
less loaded of two replicas drawn at random (Mitzenmacher, 2001). Load is counted in tokens, from
selection to the last byte. In a queue, keys take turns, and a full queue refuses the newest request
of the key with the most waiting requests.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Literal

from gateway_lite import errors
from gateway_lite.catalog.replica import NoReplicaError
from gateway_lite.routing.prefix_affinity import PrefixAffinity
from gateway_lite.routing.replica_state import Lease, QueuedRequest, ReplicaState, RequestCost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.routing.replica_state import ReplicaSnapshot
    from gateway_lite.routing.shared_slots import SlotTable
    from gateway_lite.settings import GatewaySettings

Policy = Literal["prefix", "least_outstanding", "round_robin"]


class Balancer:
    """The choice of replicas, and the queues of requests that wait for a slot.

    Args:
        settings: queue lengths and times.
        clock: returns seconds.
        rng: source of random draws.
        slots: slots shared with other worker processes; None for a single process.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        slots: SlotTable | None = None,
    ) -> None:
        self.clock = clock
        self._settings = settings
        self._rng = rng or random.Random()  # noqa: S311 - a draw, not a secret
        self._homes = PrefixAffinity(self._rng)
        self._slots = slots
        self._states: dict[str, ReplicaState] = {}
        self._pools: dict[str, list[ReplicaState]] = {}
        self._policies: Mapping[str, str] = {}
        self._turns: defaultdict[str, int] = defaultdict(int)
        self._queues: defaultdict[str, deque[QueuedRequest]] = defaultdict(deque)
        self._served: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def update(
        self, pools: Mapping[str, Sequence[Replica]], policies: Mapping[str, str] | None = None
    ) -> None:
        """Replace the replicas of all models.

        Requests in progress at removed replicas run to their end.

        Args:
            pools: replicas by model.
            policies: routing policy by model; "prefix" for models not named.
        """
        now, before = self.clock(), self._pools
        pool_states: dict[str, ReplicaState] = {}
        self._pools = {}
        for model, replicas in pools.items():
            # A replica that joins others warms up slowly; the first replicas of a model have to
            # take all requests.
            warm = not before.get(model)
            # A model and its adapters share their replicas.
            pool = [
                pool_states.get(replica.key) or self._state(replica, now, warm=warm)
                for replica in replicas
            ]
            pool_states.update({state.key: state for state in pool})
            self._pools[model] = pool
        gone = [state for key, state in self._states.items() if key not in pool_states]
        self._states = pool_states
        if policies is not None:
            self._policies = policies
        for state in gone:
            if state.shared is not None:
                state.shared.close()
        self.wake_all()

    def wake_all(self) -> None:
        """Serve all queues, as slots may have become free."""
        for model in tuple(self._queues):
            self.tell(model)
            self.wake(model)

    def _state(self, replica: Replica, now: float, *, warm: bool) -> ReplicaState:
        state = self._states.get(replica.key)
        if state is None:
            shared = None
            if self._slots is not None and replica.slots is not None:
                shared = self._slots.open(replica.key, replica.slots)
            return ReplicaState(replica, now, self._rng, warm=warm, shared=shared)
        state.replica = replica
        return state

    def others(self, model: str, tried: Collection[str]) -> bool:
        """Return whether the model has an untried replica."""
        return any(state.key not in tried for state in self._pools.get(model, ()))

    def several(self, model: str) -> bool:
        """Return whether the model has two or more replicas."""
        return len(self._pools.get(model, ())) > 1

    def place(self, model: str, work: RequestCost, tried: Collection[str] = ()) -> Lease | None:
        """Return a lease at a replica, or None if all slots are taken or earlier requests wait.

        Args:
            model: name of the model.
            work: cost of the request.
            tried: keys of replicas that failed the request; used again only without an alternative.

        Raises:
            NoReplicaError: the model has no replica.
        """
        pool = self._pools.get(model)
        if not pool:
            raise NoReplicaError(model)
        # A request never overtakes the queue.
        return None if self._queues.get(model) else self._place(model, pool, work, tried)

    def _place(
        self, model: str, pool: list[ReplicaState], work: RequestCost, tried: Collection[str]
    ) -> Lease | None:
        while True:
            # One replica is the common case and needs no scoring: also an open breaker leaves no
            # choice.
            if len(pool) == 1:
                state = pool[0] if pool[0].free else None
            else:
                state = self._choose(model, pool, work, tried)
            if state is None:
                return None
            lease = Lease(self, model, state, work.tokens, state.replica)
            # Another worker may take the last slot between the choice and ``take``; then choose
            # again.
            if state.take(lease, work.tokens):
                return lease

    def _choose(
        self, model: str, pool: list[ReplicaState], work: RequestCost, tried: Collection[str]
    ) -> ReplicaState | None:
        now = self.clock()
        pool_states = [s for s in _wanted(pool, tried, now) if s.free]
        if len(pool_states) <= 1:
            return pool_states[0] if pool_states else None
        policy = self._policies.get(model, "prefix")
        if policy == "round_robin":
            self._turns[model] += 1
            return pool_states[self._turns[model] % len(pool_states)]
        if policy == "least_outstanding":
            least = min(len(s.leases) for s in pool_states)
            return self._rng.choice([s for s in pool_states if len(s.leases) == least])
        if not work.prefix:
            return self._lesser(pool_states, now)
        state = self._homes.find(pool_states, work, now) or self._lesser(pool_states, now)
        self._homes.keep(work, state)
        return state

    def _lesser(self, pool_states: list[ReplicaState], now: float) -> ReplicaState:
        """Return the less loaded of two replicas drawn at random."""
        count = len(pool_states)
        # ``random()`` in place of ``sample``: one draw each, and the second index never equals the
        # first.
        first = int(self._rng.random() * count)
        second = (first + 1 + int(self._rng.random() * (count - 1))) % count
        one, two = pool_states[first], pool_states[second]
        return one if one.load(now) <= two.load(now) else two

    def wait(
        self,
        model: str,
        work: RequestCost,
        tried: Collection[str],
        done: Callable[[Lease | Exception], None],
    ) -> QueuedRequest:
        """Queue a request for a slot, behind all waiting requests of its key.

        Args:
            model: name of the model.
            work: cost of the request.
            tried: keys of replicas that failed the request.
            done: gets the lease or an error; never called before ``wait`` returns.

        Raises:
            ApiError: the queue is full, and no key has more waiting requests than this one.
        """
        queue = self._queues[model]
        if len(queue) >= self._settings.queue_length:
            self._make_room(model, queue, work.key)
        return QueuedRequest(self, model, queue, work, tried, done)

    def _make_room(self, model: str, queue: deque[QueuedRequest], key: str) -> None:
        """Refuse the newest request of the key with the most waiting requests."""
        counts = Counter(one.work.key for one in queue)
        most, count = counts.most_common(1)[0]
        # With its new request the key would have as many as the other: then it is no better.
        if counts[key] + 1 >= count:
            raise errors.queue_full(model)
        newest = next(one for one in reversed(queue) if one.work.key == most)
        queue.remove(newest)
        newest.done(errors.queue_full(model))

    def tell(self, model: str) -> None:
        """Publish the waiting time of the oldest queued request to other workers.

        Only the rows of the replicas that this request may use carry the time.
        """
        if self._slots is None:
            return
        queue = self._queues.get(model)
        since, wanted, pool = None, [], self._pools.get(model, [])
        if queue:
            since, wanted = queue[0].since, _wanted(pool, queue[0].tried, self.clock())
        for state in pool:
            if state.shared is not None:
                state.shared.wait(since if state in wanted else None)

    def waiting(self, model: str) -> int:
        """Return the number of requests that wait for a slot."""
        return len(self._queues.get(model, ()))

    def wake(self, model: str) -> None:
        """Give free slots to waiting requests."""
        queue = self._queues.get(model)
        while queue:
            pool = self._pools.get(model)
            first = self._next(model, queue)
            lease: Lease | Exception | None = NoReplicaError(model)
            if pool:
                lease = self._place(model, pool, first.work, first.tried)
            if lease is None:
                return
            queue.remove(first)
            self._note_turn(model, first.work.key, left=bool(queue))
            self.tell(model)
            first.done(lease)

    def _next(self, model: str, queue: deque[QueuedRequest]) -> QueuedRequest:
        """Return the oldest request of the key whose last turn is longest ago."""
        served = self._served.get(model)
        # ``min`` returns the first of equals, so requests of one key keep their order.
        return min(queue, key=lambda one: served.get(one.work.key, 0)) if served else queue[0]

    def _note_turn(self, model: str, key: str, *, left: bool) -> None:
        """Record a key's turn; an empty queue forgets all turns."""
        if not left:
            self._served.pop(model, None)
            return
        served = self._served[model]
        served[key] = max(served.values(), default=0) + 1

    def tick(self, passed_s: float) -> None:
        """Detect stalled replicas and requests that waited too long.

        Args:
            passed_s: seconds since the last call.
        """
        stalled = [
            state
            for state in self._states.values()
            if state.watch(passed_s, self._settings.stall_s)
        ]
        for state in stalled:
            for lease in tuple(state.leases):
                if lease.on_stall is not None:
                    lease.on_stall()
        late = self.clock() - self._settings.queue_s
        for model, queue in tuple(self._queues.items()):
            while queue and queue[0].since <= late:
                first = queue.popleft()
                self.tell(model)
                first.done(errors.queue_timeout(model))
        self.wake_all()

    def states(self) -> dict[str, ReplicaSnapshot]:
        """Return the state of each replica, by the replica's key."""
        now = self.clock()
        return {key: state.seen(now) for key, state in self._states.items()}


def _wanted(pool: list[ReplicaState], tried: Collection[str], now: float) -> list[ReplicaState]:
    """Return the healthy, untried replicas; without any, the untried ones; without any, all."""
    wanted = [state for state in pool if state.well(now) and state.key not in tried]
    return wanted or [state for state in pool if state.key not in tried] or pool
