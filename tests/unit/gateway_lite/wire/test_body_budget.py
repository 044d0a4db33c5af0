"""The memory for clients' bytes: bounded in all and by key, and fair."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.wire.body_budget import BodyBudget, budget_bytes


@dataclass(eq=False)
class Entry:
    """An owner of bytes that remembers its eviction."""

    key: str
    evicted: list[str] = field(default_factory=list)

    def evict(self) -> None:
        self.evicted.append(self.key)


def test_one_key_has_half() -> None:
    budget, one = BodyBudget(100), Entry("a")
    assert budget.take("a", one, 50)
    assert not budget.take("a", Entry("a"), 1)
    assert budget.take("b", Entry("b"), 50)


def test_the_newest_of_the_heaviest_key_makes_room() -> None:
    budget = BodyBudget(100)
    first, second, small, new = Entry("a"), Entry("a"), Entry("b"), Entry("c")
    assert budget.take("a", first, 25)
    assert budget.take("a", second, 25)
    assert budget.take("b", small, 40)
    assert budget.take("c", new, 20)

    assert (len(first.evicted), len(second.evicted), len(small.evicted)) == (0, 1, 0)
    assert budget.used == 85


def test_the_heaviest_key_evicts_nobody() -> None:
    budget, others = BodyBudget(100), [Entry(name) for name in "bcd"]
    for one in others:
        assert budget.take(one.key, one, 20)
    assert budget.take("a", Entry("a"), 40)
    assert not budget.take("a", Entry("a"), 5)
    assert not any(one.evicted for one in others)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 40))))
def test_the_sum_is_never_above_the_limit_and_ends_at_zero(
    steps: list[tuple[str, int, int]],
) -> None:
    budget = BodyBudget(100)
    entries = {(key, number): Entry(key) for key in "abc" for number in range(6)}
    for key, number, size in steps:
        if size:
            budget.take(key, entries[key, number], size)
        else:
            budget.release(key, entries[key, number])
        assert 0 <= budget.used <= 100
    for (key, _), entry in entries.items():
        budget.release(key, entry)
    assert budget.used == 0
    assert not budget._sums


def test_each_worker_has_room_for_two_bodies() -> None:
    assert budget_bytes(8) == 64
    assert budget_bytes(8, workers=2) == 32
    assert budget_bytes(8, workers=30) == 16
