"""How many requests a worker keeps in flight, against engines that are a formula."""

from __future__ import annotations

import heapq
import random

import pytest

from hpc.batch.worker.concurrency import ConcurrencyLimit


def drive(pace: ConcurrencyLimit, slots: int, answers: int) -> int:
    """Answer from an engine that serves so many at once, in a second each; return the limit."""
    now = 0.0
    for _ in range(answers):
        now += 1 / min(pace.limit, slots)
        pace.answered(now)
    return pace.limit


def serve(pace: ConcurrencyLimit, slots: int, answers: int) -> float:
    """Answer that many, each a second or so after it got a slot; return the time it took."""
    dice, now, ends, queued, left = random.Random(2), 0.0, [0.0], 0, answers
    while ends:
        now = heapq.heappop(ends)
        if now:
            pace.answered(now)
        new = min(left, pace.limit - queued - len(ends))
        queued, left = queued + new, left - new
        while queued and len(ends) < slots:
            heapq.heappush(ends, now + dice.uniform(0.7, 1.3))
            queued -= 1
    return now


@pytest.mark.parametrize(("start", "most"), [(16, 5.0), (64, 3.0), (256, 1.5)])
def test_little_time_is_lost_until_a_large_engine_is_busy(start: int, most: float) -> None:
    """In answers' times: each of them may be a minute."""
    assert serve(ConcurrencyLimit(start, 256, 0.0), 256, 40 * 256) - 40 < most


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_an_engine_is_not_given_many_times_what_it_serves(slots: int) -> None:
    pace = ConcurrencyLimit(2 * slots, 256, 0.0)
    serve(pace, slots, 2000 * slots)

    assert slots <= pace.limit <= max(48, 8 * slots)


@pytest.mark.parametrize("slots", [4, 16, 64])
def test_the_limit_climbs_to_what_the_engine_serves_and_not_far_beyond(slots: int) -> None:
    pace = ConcurrencyLimit(2, 256, 0.0)
    seen = drive(pace, slots, 10_000)

    assert slots <= seen <= slots * 4


def test_the_ceiling_holds() -> None:
    assert drive(ConcurrencyLimit(2, 10, 0.0), 64, 5_000) == 10


def test_refusals_of_one_moment_count_once_and_the_limit_stays_above_zero() -> None:
    pace = ConcurrencyLimit(100, 256, 0.0)
    for _ in range(60):
        pace.refused(1.0)
    once = pace.limit
    for moment in range(10_000):
        pace.refused(float(moment))

    assert once == 70
    assert pace.limit == 1


def test_an_engine_that_recovers_is_kept_busy_again() -> None:
    pace = ConcurrencyLimit(64, 256, 0.0)
    for moment in range(1000):
        pace.refused(float(moment))
    assert pace.limit < 8

    assert drive(pace, 32, 20_000) >= 32
