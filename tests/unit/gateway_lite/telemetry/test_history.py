"""The last quarter of an hour, made of counters that know nothing of time."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.api.dashboard_data import Share
from gateway_lite.telemetry.counters import SECONDS, Counters
from gateway_lite.telemetry.history import (
    STEP_S,
    STEPS,
    History,
    Step,
    WindowCounts,
    grown,
    joined,
    quantile,
    window_counts,
)

START = 1_000_000


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


def serve(counters: Counters, model: str = "m", key: str = "alice", status: int = 2) -> None:
    tally = counters.of(model, key, status)
    tally.requests += 1
    tally.prompt += 5
    tally.completion += 3
    tally.model.ttft.add(0.2)
    tally.model.duration.add(2.0)


def total(history: History, model: str = "m") -> WindowCounts:
    return window_counts(history.steps(), 0, [model])


def test_each_step_has_what_came_in_it() -> None:
    clock, counters = Clock(), Counters()
    serve(counters)  # before anybody looked
    history = History(counters, clock)
    for count in (1, 0, 3):
        for _ in range(count):
            serve(counters)
        clock.now += STEP_S
        history.look()
    serve(counters, status=5)
    steps = history.steps()
    first = START // STEP_S

    assert {at: step.models["m"].requests for at, step in steps.items() if step.models} == {
        first: 1,
        first + 2: 3,
        first + 3: 1,
    }
    assert steps[first + 3].models["m"].failed == 1
    assert steps[first + 2].keys == {"alice": (3, 24)}


def test_idle_time_takes_no_room() -> None:
    clock, counters = Clock(), Counters()
    history = History(counters, clock)
    serve(counters)
    for _ in range(STEPS // 2):
        clock.now += STEP_S
        history.look()

    assert [step for step in history.steps().values() if step.models] == [
        history.steps()[START // STEP_S]
    ]
    assert len(history.steps()) == 2


def test_what_is_older_than_a_quarter_of_an_hour_is_forgotten() -> None:
    clock, counters = Clock(), Counters()
    history = History(counters, clock)
    for _ in range(3 * STEPS):
        serve(counters)
        clock.now += STEP_S
        history.look()

    assert total(history).requests == STEPS - 1
    clock.now += 2 * STEPS * STEP_S
    history.look()
    assert total(history).requests == 0


def test_a_model_that_went_and_came_back_counts_from_nothing() -> None:
    clock, counters = Clock(), Counters()
    for _ in range(5):
        serve(counters)
    history = History(counters, clock)
    counters.keep(())
    for _ in range(2):
        serve(counters)

    assert total(history).requests == 2


def test_requests_that_a_limit_refused_do_not_count_against_it() -> None:
    clock, counters = Clock(), Counters()
    history = History(counters, clock)
    serve(counters)
    for _ in range(4):
        counters.of("m", "alice", 4).requests += 1
        counters.limit("alice", "rpm")
    (step,) = history.steps().values()

    assert step.keys == {"alice": (1, 8)}
    assert step.models["m"].refused == 4


counts = st.integers(0, 50)
buckets = st.lists(counts, min_size=len(SECONDS) + 1, max_size=len(SECONDS) + 1)
flows = st.builds(WindowCounts, counts, counts, counts, counts, counts, buckets, buckets)
steps = st.builds(
    Step,
    st.dictionaries(st.sampled_from("abc"), flows),
    st.dictionaries(st.sampled_from("xyz"), st.tuples(counts, counts)),
)


@given(st.dictionaries(st.integers(0, 5), steps), st.dictionaries(st.integers(0, 5), steps))
def test_steps_of_two_workers_add_up(one: dict[int, Step], other: dict[int, Step]) -> None:
    both = joined([one, other])

    assert both == joined([other, one])
    for name in "abc":
        sums = [window_counts(each, 0, [name]) for each in (one, other, both)]
        assert sums[0].requests + sums[1].requests == sums[2].requests
        assert sum(sums[0].ttft) + sum(sums[1].ttft) == sum(sums[2].ttft)


@given(steps, steps)
def test_what_grew_is_what_was_added(before: Step, more: Step) -> None:
    now = joined([{0: before}, {0: more}])[0]
    found = grown(now, before)

    assert {name: one.requests for name, one in found.models.items()} == {
        name: one.requests for name, one in more.models.items() if one.requests
    }
    assert found.keys == {name: pair for name, pair in more.keys.items() if any(pair)}


@given(st.dictionaries(st.integers(0, 5), steps))
def test_a_worker_tells_others_all_of_it(known: dict[int, Step]) -> None:
    share = Share(known, {"m": 1})

    assert msgspec.json.decode(msgspec.json.encode(share), type=Share) == share


@given(buckets, st.floats(0, 1))
def test_a_percentile_lies_in_the_bucket_that_holds_it(held: list[int], share: float) -> None:
    found = quantile(held, share)
    if not sum(held):
        assert found is None
        return
    below = [sum(held[: n + 1]) for n in range(len(held))]
    at = next(n for n, so_far in enumerate(below) if so_far >= share * sum(held) and so_far)
    low = SECONDS[at - 1] if at else 0.0
    high = SECONDS[min(at, len(SECONDS) - 1)]

    assert found is not None
    assert min(low, high) <= found <= high


def test_percentiles_are_those_that_prometheus_estimates() -> None:
    """Worked by hand after histogram_quantile: 10 values between 0.1 and 0.25 s, 10 up to 0.5."""
    held = [0] * (len(SECONDS) + 1)
    held[SECONDS.index(0.25)] = held[SECONDS.index(0.5)] = 10

    assert quantile(held, 0.25) == pytest.approx(0.175)
    assert quantile(held, 0.5) == pytest.approx(0.25)
    assert quantile(held, 0.95) == pytest.approx(0.475)
