"""Workers that share an engine's slots: never more requests than those, and nobody is forgotten."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_lite.catalog.replica import NoReplicaError, Replica
from gateway_lite.errors import ApiError
from gateway_lite.routing.balancer import Balancer
from gateway_lite.routing.replica_state import Lease, RequestCost
from gateway_lite.routing.shared_slots import NUMBERS, ROWS, SlotTable, wakeups
from gateway_lite.settings import GatewaySettings
from gateway_lite.shared_memory import nameless

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway_lite.routing.replica_state import QueuedRequest

WORKERS = 3
NOBODY = 31


class Clock:
    """Seconds that pass when told to, alike for all workers."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def replicas(names: Sequence[int], slots: int | None = 1) -> tuple[Replica, ...]:
    return tuple(Replica(f"k{n}", f"m/{n}", f"http://r{n}", slots=slots) for n in names)


class Worker:
    """One worker: its balancer, what it holds, and who waits in it."""

    def __init__(self, table: SlotTable, bell: int, pool: Sequence[Replica], clock: Clock) -> None:
        self.balancer = Balancer(
            GatewaySettings(queue_length=4, queue_s=50.0, stall_s=1e9),
            clock=clock,
            rng=random.Random(7),
            slots=table,
        )
        self.bell = bell
        self.held: list[Lease] = []
        self.waiting: list[QueuedRequest] = []
        self.told: list[Lease | Exception] = []
        self.pool: Sequence[Replica] | None = None
        self.look(pool)

    def look(self, pool: Sequence[Replica]) -> None:
        """Learn of the replicas there are, where they are others than before."""
        if pool != self.pool:
            self.pool = pool
            self.balancer.update({"m": pool})
            self.collect()

    def ask(self, tried: Sequence[str] = ()) -> None:
        """Take a place, or wait for one."""
        lease = self.balancer.place("m", RequestCost(), tried)
        if lease is not None:
            self.held.append(lease)
            return
        self.waiting.append(self.balancer.wait("m", RequestCost(), tried, self.told.append))

    def hear(self) -> bool:
        """Answer the bell."""
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            return False
        self.balancer.wake_all()
        self.collect()
        return True

    def collect(self) -> None:
        self.held += [one for one in self.told if isinstance(one, Lease)]
        self.told[:] = [one for one in self.told if not isinstance(one, Lease)]

    @property
    def queued(self) -> int:
        return self.balancer.waiting("m")


class Gateway:
    """Workers with one table, and the process that looks after them."""

    def __init__(self, stack: ExitStack, pool: Sequence[Replica], workers: int = WORKERS) -> None:
        self.path = stack.enter_context(nameless(NUMBERS))
        self.clock = Clock()
        self.pool = pool
        self.wakeups = wakeups(workers)
        for bell in self.wakeups:
            stack.callback(os.close, bell)
        self.keeper = SlotTable(self.path, NOBODY, self.wakeups)
        self.workers = [self.make(number) for number in range(workers)]

    def make(self, number: int) -> Worker:
        table = SlotTable(self.path, number, self.wakeups)
        return Worker(table, self.wakeups[number], self.pool, self.clock)

    def kill(self, number: int) -> None:
        """End a worker that can say nothing more, and begin another one."""
        self.keeper.clear(number)
        self.workers[number] = self.make(number)

    def settle(self) -> None:
        """Let every bell be heard; it must come to an end."""
        for _ in range(100):
            heard = [worker.hear() for worker in self.workers]
            if not any(heard):
                return
        raise AssertionError("the wakeups do not fall silent")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_a_slot_goes_to_who_waits_longest_whoever_frees_it(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, three = gateway.workers
    one.ask()
    for worker in (two, one, three, two):
        gateway.clock.now += 1
        worker.ask()
    assert [worker.queued for worker in gateway.workers] == [1, 2, 1]
    order = []
    while any(worker.held for worker in gateway.workers):
        holder = next(worker for worker in gateway.workers if worker.held)
        order.append(gateway.workers.index(holder))
        holder.held.pop().release("ok")
        holder.collect()
        gateway.settle()
    assert order == [0, 1, 0, 2, 1]


def test_who_comes_now_leaves_a_free_slot_to_who_waits(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, _ = gateway.workers
    one.ask()
    two.ask()
    one.held.pop().release("ok")
    assert one.balancer.place("m", RequestCost()) is None
    gateway.settle()
    assert len(two.held) == 1


def test_one_that_waits_no_more_keeps_nobody_waiting(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, three = gateway.workers
    one.ask()
    two.ask()
    gateway.clock.now += 1
    three.ask()
    one.held.pop().release("ok")
    two.waiting[0].cancel()
    gateway.settle()
    assert (two.queued, len(three.held)) == (0, 1)


def test_one_that_leaves_the_queue_of_who_has_the_slot_keeps_nobody_waiting(
    stack: ExitStack,
) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, _ = gateway.workers
    one.ask()
    one.ask()
    gateway.clock.now += 1
    two.ask()
    one.waiting[0].cancel()
    one.held.pop().release("ok")
    gateway.settle()
    assert len(two.held) == 1


def test_a_slot_that_came_free_before_the_wait_began_is_heard_of(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, _ = gateway.workers
    one.ask()
    assert two.balancer.place("m", RequestCost()) is None
    one.held.pop().release("ok")
    two.balancer.wait("m", RequestCost(), (), two.told.append)
    gateway.settle()
    assert len(two.held) == 1


def test_what_a_killed_worker_had_is_free_at_once(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0], slots=2))
    one, two, three = gateway.workers
    for worker in (one, one, one, two, three):
        gateway.clock.now += 1
        worker.ask()
    gateway.kill(0)
    gateway.settle()
    assert (len(two.held), len(three.held)) == (1, 1)


def test_one_that_was_there_already_does_not_wait_for_it(stack: ExitStack) -> None:
    """A request that failed at a replica waits for the other one, and blocks nobody at this one."""
    gateway = Gateway(stack, replicas([0, 1]))
    one, two, _ = gateway.workers
    one.ask()
    one.ask()
    two.ask(["k0"])
    first = next(lease for lease in one.held if lease.replica.key == "k0")
    first.release("ok")
    gateway.settle()
    assert two.queued == 1
    gateway.workers[2].ask()
    assert [lease.replica.key for lease in gateway.workers[2].held] == ["k0"]


def test_one_that_leaves_a_replica_alone_keeps_nobody_from_it(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0, 1]))
    one, two, three = gateway.workers
    lease = two.balancer.place("m", RequestCost(), ["k1"])
    assert lease is not None
    lease.release("unreachable")
    one.ask()
    one.ask()
    two.ask()
    next(lease for lease in one.held if lease.replica.key == "k0").release("ok")
    gateway.settle()
    three.ask()
    assert two.queued == 1
    assert [lease.replica.key for lease in three.held] == ["k0"]


def test_a_replica_that_comes_back_still_has_what_is_under_way(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0]))
    one, two, _ = gateway.workers
    one.ask()
    for pool in ((), replicas([1]), gateway.pool):
        for worker in gateway.workers:
            worker.balancer.update({"m": pool})
    assert one.balancer.place("m", RequestCost()) is None
    two.ask()
    one.held.pop().release("ok")
    gateway.settle()
    assert len(two.held) == 1


def test_replicas_come_and_go_for_ever_but_only_so_many_at_once(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(stack, (), workers=1)
    balancer = gateway.workers[0].balancer
    half = ROWS // 2
    for turn in range(5):
        balancer.update({"m": replicas(range(turn * half, (turn + 1) * half))})
    assert not caplog.text
    balancer.update({"m": replicas(range(4 * half, 4 * half + ROWS + 1))})
    assert caplog.text.count("no room for the slots of another replica") == 1
    assert balancer.place("m", RequestCost()) is not None


def test_what_has_no_known_slots_is_not_counted(stack: ExitStack) -> None:
    gateway = Gateway(stack, replicas([0], slots=None))
    for worker in gateway.workers * 3:
        worker.ask()
    assert sum(len(worker.held) for worker in gateway.workers) == 9


class Whatever:
    """Requests come and end, workers die, replicas come and go, in any order."""

    def __init__(self, stack: ExitStack, count: int, slots: int) -> None:
        self.slots = slots
        self.gateway = Gateway(stack, replicas(range(count), slots))

    def step(self, what: str, number: int, which: int) -> None:
        self.gateway.clock.now += 0.001
        worker = self.gateway.workers[number]
        getattr(self, what)(worker, which)
        worker.collect()
        assert all(count <= self.slots for count in self.taken().values()), "one is used twice"

    def ask(self, worker: Worker, which: int) -> None:
        with contextlib.suppress(NoReplicaError, ApiError):
            worker.ask()

    def end(self, worker: Worker, which: int) -> None:
        if worker.held:
            worker.held.pop(which % len(worker.held)).release("ok")

    def cancel(self, worker: Worker, which: int) -> None:
        if worker.waiting:
            worker.waiting.pop(which % len(worker.waiting)).cancel()

    def kill(self, worker: Worker, which: int) -> None:
        self.gateway.kill(self.gateway.workers.index(worker))

    def replace(self, worker: Worker, which: int) -> None:
        self.gateway.pool = replicas(range(which % 4), self.slots)

    def look(self, worker: Worker, which: int) -> None:
        worker.look(self.gateway.pool)

    def wait(self, worker: Worker, which: int) -> None:
        self.gateway.clock.now += 7 * which
        worker.balancer.tick(7 * which)

    def hear(self, worker: Worker, which: int) -> None:
        worker.hear()

    def settle(self, worker: Worker, which: int) -> None:
        """When all see the same replicas and all wakeups were heard, nobody waits for nothing."""
        for each in self.gateway.workers:
            each.look(self.gateway.pool)
        self.gateway.settle()
        if any(each.queued for each in self.gateway.workers):
            taken = self.taken()
            assert all(taken[one.key] == self.slots for one in self.gateway.pool), "one is free"

    def taken(self) -> Counter[str]:
        return Counter(
            lease.replica.key for worker in self.gateway.workers for lease in worker.held
        )


OFTEN = ("ask",) * 6 + ("end",) * 5 + ("settle",) * 4 + ("hear",) * 3
SELDOM = ("cancel", "cancel", "kill", "replace", "look", "look", "wait")


@given(
    count=st.integers(1, 3),
    slots=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(OFTEN + SELDOM), st.integers(0, WORKERS - 1), st.integers(0, 9)),
        min_size=40,
        max_size=120,
    ),
)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_no_slot_is_used_twice_or_forgotten(
    count: int, slots: int, steps: list[tuple[str, int, int]]
) -> None:
    with ExitStack() as stack:
        whatever = Whatever(stack, count, slots)
        for step in steps:
            whatever.step(*step)
