"""Who takes a request: pure choices, driven by a clock of our own."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway_lite.catalog.replica import NoReplicaError, Replica
from gateway_lite.errors import ApiError
from gateway_lite.routing.balancer import Balancer
from gateway_lite.routing.prefix_affinity import BOUND, SLACK
from gateway_lite.routing.replica_state import Lease, RequestCost
from gateway_lite.settings import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway_lite.routing.replica_state import Outcome


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def replicas(count: int, slots: int | None = None) -> tuple[Replica, ...]:
    return tuple(Replica(f"k{n}", f"m/{n}", f"http://r{n}", slots=slots) for n in range(count))


def balancer(
    pool: Sequence[Replica], policy: str = "prefix", **more: float
) -> tuple[Balancer, Clock]:
    clock = Clock()
    made = Balancer(GatewaySettings(**more), clock=clock, rng=random.Random(7))  # type: ignore[arg-type]
    made.update({"m": pool}, {"m": policy})
    return made, clock


def take(b: Balancer, prefix: bytes = b"", tokens: int = 1, tried: Sequence[str] = ()) -> Lease:
    lease = b.place("m", RequestCost(tokens, prefix), tried)
    assert lease is not None
    return lease


def outstanding(b: Balancer) -> dict[str, int]:
    return {key: seen.outstanding for key, seen in b.states().items()}


def test_a_model_and_its_adapters_share_the_load_of_their_replicas() -> None:
    b, _ = balancer(())
    pool = replicas(1, slots=2)
    b.update({"m": pool, "adapter": pool}, {})

    assert b.place("adapter", RequestCost(5, b"")) is not None
    assert b.place("m", RequestCost(5, b"")) is not None
    assert outstanding(b) == {"k0": 2}
    assert b.place("adapter", RequestCost(5, b"")) is None


def test_without_replicas_there_is_no_place() -> None:
    b, _ = balancer(())
    with pytest.raises(NoReplicaError):
        b.place("m", RequestCost())
    with pytest.raises(NoReplicaError):
        b.place("unknown", RequestCost())


@pytest.mark.parametrize("policy", ["prefix", "least_outstanding"])
def test_work_spreads_evenly_while_nothing_ends(policy: str) -> None:
    b, _ = balancer(replicas(4), policy)
    for _ in range(400):
        take(b)
    counts = outstanding(b).values()
    assert max(counts) - min(counts) <= (1 if policy == "least_outstanding" else 12)


def test_round_robin_takes_turns() -> None:
    b, _ = balancer(replicas(3), "round_robin")
    names = [take(b).replica.key for _ in range(9)]
    assert Counter(names) == {"k0": 3, "k1": 3, "k2": 3}
    assert names[:3] == names[3:6]


def test_a_long_request_counts_as_much_as_many_short_ones() -> None:
    b, _ = balancer(replicas(2))
    long = take(b, tokens=100_000)
    others = {take(b, tokens=10).replica.key for _ in range(50)}
    assert others == {"k0", "k1"} - {long.replica.key}


def test_one_prefix_stays_at_one_replica() -> None:
    b, _ = balancer(replicas(4))
    homes = set()
    for _ in range(50):
        lease = take(b, b"you are a poet")
        homes.add(lease.replica.key)
        lease.release("ok")
    assert len(homes) == 1


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=40, max_size=80, unique=True))
def test_prefixes_spread_and_only_those_of_a_lost_replica_move(prefixes: list[bytes]) -> None:
    pool = replicas(4)
    b, _ = balancer(pool)

    def homes() -> dict[bytes, str]:
        found = {}
        for prefix in prefixes:
            lease = take(b, prefix)
            found[prefix] = lease.replica.key
            lease.release("ok")
        return found

    before = homes()
    assert len(set(before.values())) >= 3
    b.update({"m": pool[1:]}, {})
    after = homes()
    assert all(after[p] == home for p, home in before.items() if home != "k0")


def test_a_busy_home_gives_work_away_within_the_bound() -> None:
    b, _ = balancer(replicas(4))
    for _ in range(200):
        take(b, b"hot", tokens=100)
    counts = outstanding(b)
    assert max(counts.values()) <= max(BOUND * 200 / 4 + 1, min(counts.values()) + SLACK + 1)


def test_slots_are_never_exceeded_and_those_who_wait_are_served_in_order() -> None:
    b, _ = balancer(replicas(2, slots=1))
    held = [take(b), take(b)]
    assert b.place("m", RequestCost()) is None
    served: list[int] = []
    leases: list[Lease] = []

    def wait(number: int) -> None:
        def done(found: Lease | Exception) -> None:
            assert isinstance(found, Lease)
            served.append(number)
            leases.append(found)

        b.wait("m", RequestCost(), (), done)

    for number in range(3):
        wait(number)
    held[0].release("ok")
    held[0].release("ok")
    assert served == [0]
    held[1].release("left")
    leases[0].release("ok")
    assert served == [0, 1, 2]
    assert max(outstanding(b).values()) == 1


def test_a_queue_is_bounded_and_its_wait_too() -> None:
    b, clock = balancer(replicas(1, slots=1), queue_length=2, queue_s=10.0)
    take(b)
    told: list[Lease | Exception] = []
    b.wait("m", RequestCost(), (), told.append)
    b.wait("m", RequestCost(), (), told.append)
    with pytest.raises(ApiError) as full:
        b.wait("m", RequestCost(), (), told.append)
    assert full.value.status == 429
    clock.now += 10
    b.tick(10)
    assert [error.code for error in told if isinstance(error, ApiError)] == ["queue_timeout"] * 2


def test_one_who_gives_up_does_not_get_the_slot() -> None:
    b, _ = balancer(replicas(1, slots=1))
    held = take(b)
    told: list[str] = []
    first = b.wait("m", RequestCost(), (), lambda found: told.append("first"))
    b.wait("m", RequestCost(), (), lambda found: told.append("second"))
    first.cancel()
    first.cancel()
    held.release("ok")
    assert told == ["second"]


def test_those_who_wait_learn_that_all_replicas_went() -> None:
    b, _ = balancer(replicas(1, slots=1))
    take(b)
    told: list[Lease | Exception] = []
    b.wait("m", RequestCost(), (), told.append)
    b.update({"m": ()})
    assert isinstance(told[0], NoReplicaError)


def test_a_new_replica_serves_those_who_wait() -> None:
    b, _ = balancer(replicas(1, slots=1))
    take(b)
    told: list[Lease | Exception] = []
    b.wait("m", RequestCost(), (), told.append)
    b.update({"m": replicas(2, slots=1)})
    assert isinstance(told[0], Lease)
    assert told[0].replica.key == "k1"


def test_who_was_tried_is_asked_again_only_where_there_is_no_other() -> None:
    b, _ = balancer(replicas(2))
    assert {take(b, tried=["k0"]).replica.key for _ in range(20)} == {"k1"}
    assert take(b, tried=["k0", "k1"]).replica.key in {"k0", "k1"}
    assert b.others("m", ["k0"])
    assert not b.others("m", ["k0", "k1"])


def test_an_unreachable_replica_rests_and_then_one_request_tries_it() -> None:
    b, clock = balancer(replicas(2))
    while (lease := take(b)).replica.key != "k0":
        lease.release("ok")
    lease.release("unreachable")
    assert b.states()["k0"].breaker == "open"
    assert {take(b).replica.key for _ in range(20)} == {"k1"}
    clock.now += 5
    assert b.states()["k0"].breaker == "half-open"
    probes = [lease for lease in (take(b) for _ in range(20)) if lease.replica.key == "k0"]
    assert len(probes) == 1
    probes[0].release("ok")
    assert b.states()["k0"].breaker == "closed"
    assert "k0" in {take(b).replica.key for _ in range(20)}


def test_each_failed_probe_makes_the_rest_longer_up_to_a_minute() -> None:
    b, clock = balancer(replicas(2))
    rests = []
    for _ in range(8):
        while (lease := take(b)).replica.key != "k0":
            lease.release("ok")
        lease.release("unreachable")
        began = clock.now
        while b.states()["k0"].breaker == "open":
            clock.now += 0.5
        rests.append(clock.now - began)
    assert rests[0] <= 5.5
    assert 40 <= rests[-1] <= 60.5


def test_two_failures_are_forgiven_and_a_third_in_a_row_is_not() -> None:
    b, _ = balancer(replicas(1))
    for outcome in ("failed", "failed", "ok", "failed", "failed"):
        take(b).release(outcome)
        assert b.states()["k0"].breaker == "closed"
    take(b).release("failed")
    assert b.states()["k0"].breaker == "open"
    assert take(b).replica.key == "k0"


def test_a_late_replica_gets_its_share_slowly() -> None:
    b, clock = balancer(replicas(2))
    b.update({"m": replicas(3)})
    early = Counter(take(b, tokens=10).replica.key for _ in range(300))
    assert 0 < early["k2"] < 60
    for state in range(2):
        del state
        clock.now += 30
    leases = [take(b, tokens=10) for _ in range(600)]
    assert sum(lease.replica.key == "k2" for lease in leases) > 200


def test_a_late_replica_alone_serves_at_once() -> None:
    b, _ = balancer(replicas(1))
    b.update({"m": (Replica("new", "m/0", "http://x"),)})
    assert take(b).replica.key == "new"


def test_a_replica_without_movement_is_stuck_until_it_moves() -> None:
    b, clock = balancer(replicas(2), stall_s=10.0)
    while (stuck := take(b)).replica.key != "k0":
        stuck.release("ok")
    told: list[str] = []
    stuck.on_stall = lambda: told.append("stalled")
    for _ in range(9):
        clock.now += 1
        b.tick(1)
    assert told == []
    b.tick(1)
    b.tick(1)
    assert told == ["stalled"]
    assert {take(b).replica.key for _ in range(20)} == {"k1"}
    stuck.moved()
    b.tick(1)
    assert "k0" in {take(b).replica.key for _ in range(20)}


def test_an_idle_replica_is_never_stuck() -> None:
    b, _ = balancer(replicas(1), stall_s=1.0)
    for _ in range(5):
        b.tick(1)
    assert b.states()["k0"].stalled_s == 0


class Whatever(RuleBasedStateMachine):
    """Requests come and end, replicas come and go, in any order."""

    @initialize(
        count=st.integers(1, 4),
        slots=st.sampled_from([None, 1, 2]),
        policy=st.sampled_from(["prefix", "least_outstanding", "round_robin"]),
    )
    def begin(self, count: int, slots: int | None, policy: str) -> None:
        self.count, self.slots = count, slots
        pool = replicas(count, slots)
        self.b, self.clock = balancer(pool, policy, stall_s=5.0, queue_length=4)
        self.held: list[Lease] = []
        self.told: list[list[Lease | Exception]] = []

    @rule(number=st.integers(0, 7))
    def ask(self, number: int) -> None:
        try:
            lease = self.b.place("m", RequestCost(number + 1, bytes([number])))
        except NoReplicaError:
            assert self.count == 0
            return
        if lease is not None:
            self.held.append(lease)
        elif self.b.waiting("m") < 4:
            self.told.append([])
            self.b.wait("m", RequestCost(), (), self.told[-1].append)

    @rule(number=st.integers(0, 9), outcome=st.sampled_from(["ok", "failed", "left"]))
    def end(self, number: int, outcome: Outcome) -> None:
        if self.held:
            self.held.pop(number % len(self.held)).release(outcome)
        self.collect()

    @rule(count=st.integers(0, 4))
    def replace(self, count: int) -> None:
        self.count = count
        self.b.update({"m": replicas(count, self.slots)})
        self.collect()

    @rule(seconds=st.integers(0, 7))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.b.tick(seconds)
        self.collect()

    def collect(self) -> None:
        assert all(len(told) <= 1 for told in self.told)
        self.held += [one for told in self.told for one in told if isinstance(one, Lease)]
        self.told = [told for told in self.told if not told]

    @invariant()
    def counts_are_those_of_the_leases(self) -> None:
        mine = Counter(lease.replica.key for lease in self.held)
        for key, seen in self.b.states().items():
            assert 0 <= seen.outstanding <= mine[key]
            assert seen.tokens >= seen.outstanding
            assert self.slots is None or seen.outstanding <= self.slots

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        seen = self.b.states().values()
        well = all(s.breaker == "closed" and s.stalled_s < 5 for s in seen)
        if self.b.waiting("m") and well:
            assert all(s.outstanding == self.slots for s in seen)


TestWhatever = Whatever.TestCase
TestWhatever.settings = settings(max_examples=60, stateful_step_count=40)


def queued(b: Balancer, key: str, said: list[tuple[str, object]]) -> None:
    """Let a request of a key wait for a slot."""
    work = RequestCost(1, key=key)
    b.wait("m", work, (), lambda found: said.append((key, found)))


def test_a_full_queue_refuses_the_newest_of_the_key_with_the_most() -> None:
    b, _ = balancer(replicas(1, slots=1), queue_length=4)
    take(b)
    said: list[tuple[str, object]] = []
    for key in "aaab":
        queued(b, key, said)
    with pytest.raises(ApiError, match="too many requests wait"):
        queued(b, "a", said)
    assert not said
    queued(b, "c", said)

    assert [key for key, _ in said] == ["a"]
    assert isinstance(said[0][1], ApiError)
    assert b.waiting("m") == 4


def test_keys_take_turns_in_a_queue() -> None:
    b, _ = balancer(replicas(1, slots=1))
    lease = take(b)
    said: list[tuple[str, object]] = []
    for key in "aaaabbc":
        queued(b, key, said)
    while len(said) < 7:
        lease.release("ok")
        lease = said[-1][1]  # type: ignore[assignment]

    assert "".join(key for key, _ in said) == "abcabaa"
