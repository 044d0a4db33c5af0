"""Which replica takes a request, and who waits."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.balance import Balancer, NoReplicaError, Replica, choose
from gateway_lite.errors import ApiError
from gateway_lite.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Coroutine

A, B, C = (Replica(key=k, name=k, url=f"http://{k}") for k in "abc")
ONE = Replica(key="one", name="one", url="http://one", slots=1)


def rng() -> random.Random:
    return random.Random(1)


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_the_least_loaded_is_chosen() -> None:
    assert choose([A, B, C], {"a": 2, "b": 1, "c": 3}, rng=rng()) is B


def test_ties_are_random() -> None:
    dice = rng()
    counts = Counter(choose([A, B, C], {}, rng=dice).key for _ in range(900))  # type: ignore[union-attr]
    assert set(counts) == {"a", "b", "c"}
    assert min(counts.values()) > 200


def test_what_was_tried_comes_last() -> None:
    assert choose([A, B], {"b": 9}, avoid={"a"}, rng=rng()) is B
    assert choose([A], {}, avoid={"a"}, rng=rng()) is A


def test_what_failed_lately_comes_last() -> None:
    assert choose([A, B], {"b": 9}, shunned={"a"}, rng=rng()) is B
    assert choose([A, B], {"b": 9}, shunned={"a", "b"}, rng=rng()) is A


def test_full_slots_mean_waiting() -> None:
    assert choose([ONE], {"one": 1}, rng=rng()) is None
    assert choose([ONE, A], {"one": 1, "a": 7}, rng=rng()) is A


def test_a_retry_waits_for_another_replica_rather_than_come_back() -> None:
    assert choose([A, ONE], {"one": 1}, avoid={"a"}, rng=rng()) is None


@given(
    loads=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 5)),
    slots=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 3)),
    avoid=st.sets(st.sampled_from("abcdef")),
    shunned=st.sets(st.sampled_from("abcdef")),
)
def test_a_choice_is_always_allowed(
    loads: dict[str, int], slots: dict[str, int], avoid: set[str], shunned: set[str]
) -> None:
    pool = [Replica(key=k, name=k, url="", slots=slots.get(k)) for k in "abcd"]
    found = choose(pool, loads, avoid=avoid, shunned=shunned, rng=rng())
    fresh = [r for r in pool if r.key not in avoid] or pool
    free = [r for r in fresh if r.slots is None or loads.get(r.key, 0) < r.slots]
    if found is None:
        assert not free
        return
    assert found in free
    peers = [r for r in free if (r.key in shunned) == (found.key in shunned)]
    assert loads.get(found.key, 0) == min(loads.get(r.key, 0) for r in peers)
    assert found.key not in shunned or all(r.key in shunned for r in free)


def test_load_counts_from_selection_to_release() -> None:
    async def test() -> None:
        balancer = Balancer(Settings())
        balancer.update({"m": [A, B]})
        first = await balancer.acquire("m")
        second = await balancer.acquire("m")
        assert {first.replica, second.replica} == {A, B}
        first.release()
        first.release()
        assert balancer.outstanding(first.replica) == 0
        assert balancer.outstanding(second.replica) == 1
        assert (await balancer.acquire("m")).replica is first.replica

    run(test())


def test_no_replica_is_said_at_once() -> None:
    async def test() -> None:
        balancer = Balancer(Settings())
        empty: list[dict[str, list[Replica]]] = [{}, {"m": []}]
        for pools in empty:
            balancer.update(pools)
            with pytest.raises(NoReplicaError):
                await balancer.acquire("m")

    run(test())


def test_waiting_is_in_order_and_bounded() -> None:
    async def test() -> None:
        balancer = Balancer(Settings(queue_length=2))
        balancer.update({"m": [ONE]})
        lease = await balancer.acquire("m")
        order: list[int] = []

        async def wait(number: int) -> None:
            with await balancer.acquire("m"):
                order.append(number)
                await asyncio.sleep(0)

        waiting = [asyncio.create_task(wait(n)) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await balancer.acquire("m")
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        lease.release()
        await asyncio.gather(*waiting)
        assert order == [0, 1]
        assert balancer.outstanding(ONE) == 0

    run(test())


def test_patience_ends() -> None:
    async def test() -> None:
        balancer = Balancer(Settings(queue_s=0.02))
        balancer.update({"m": [ONE]})
        lease = await balancer.acquire("m")
        with pytest.raises(ApiError) as caught:
            await balancer.acquire("m")
        assert (caught.value.status, caught.value.code) == (503, "queue_timeout")
        lease.release()
        assert (await balancer.acquire("m")).replica is ONE

    run(test())


@pytest.mark.parametrize("released_first", [True, False])
def test_who_gives_up_loses_no_place(*, released_first: bool) -> None:
    """Also where the place came in the same turn of the loop."""

    async def test() -> None:
        balancer = Balancer(Settings())
        balancer.update({"m": [ONE]})
        lease = await balancer.acquire("m")
        waiting = asyncio.create_task(balancer.acquire("m"))
        await asyncio.sleep(0)
        if released_first:
            lease.release()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        lease.release()
        assert balancer.outstanding(ONE) == 0
        assert (await asyncio.wait_for(balancer.acquire("m"), 1)).replica is ONE

    run(test())


def test_a_new_replica_serves_those_who_wait() -> None:
    async def test() -> None:
        balancer = Balancer(Settings())
        balancer.update({"m": [ONE]})
        await balancer.acquire("m")
        waiting = asyncio.create_task(balancer.acquire("m"))
        await asyncio.sleep(0)
        balancer.update({"m": [ONE, A]})
        assert (await waiting).replica is A

    run(test())


def test_the_last_replica_that_leaves_ends_the_wait() -> None:
    async def test() -> None:
        balancer = Balancer(Settings())
        balancer.update({"m": [ONE]})
        await balancer.acquire("m")
        waiting = asyncio.create_task(balancer.acquire("m"))
        await asyncio.sleep(0)
        balancer.update({})
        with pytest.raises(NoReplicaError):
            await waiting

    run(test())


def test_a_shunned_replica_comes_back() -> None:
    async def test() -> None:
        balancer = Balancer(Settings(shun_s=0.02))
        balancer.update({"m": [A, B]})
        busy = [await balancer.acquire("m") for _ in range(4)]
        balancer.shun(A)
        assert (await balancer.acquire("m")).replica is B
        await asyncio.sleep(0.03)
        assert (await balancer.acquire("m")).replica is A
        assert len(busy) == 4

    run(test())


def test_a_secret_is_never_shown() -> None:
    replica = Replica(key="k", name="n", url="u", secret="hidden")
    assert "hidden" not in repr(replica)
