"""The metrics of several workers are those of one gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway_lite.telemetry.workers import merge

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = ("plain", 'with "quotes"', "back\\slash", "new\nline", "")


def worker(counts: Sequence[int], flying: int, waits: Sequence[float]) -> str:
    """Return what one worker would tell."""
    registry = CollectorRegistry()
    counter = Counter("hs_requests", "Requests \\ and\nmore", ["model"], registry=registry)
    for label, count in zip(LABELS, counts, strict=False):
        counter.labels(label).inc(count)
    Gauge("hs_in_flight", "Under way", registry=registry).set(flying)
    Gauge("hs_replicas", "Wanted", registry=registry).set(4)
    wait = Histogram("hs_wait_seconds", "Waits", buckets=(0.5, 1), registry=registry)
    for seconds in waits:
        wait.observe(seconds)
    return generate_latest(registry).decode()


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), max_size=len(LABELS)),
            st.integers(0, 9),
            st.lists(st.sampled_from([0.25, 0.75, 2.0]), max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_sums_are_those_of_one_worker_that_did_it_all(
    each: list[tuple[list[int], int, list[float]]],
) -> None:
    merged = values(merge([worker(*one) for one in each]))
    most = max(len(counts) for counts, _, _ in each)
    counts = [sum(one[i] for one, _, _ in each if i < len(one)) for i in range(most)]
    flying = sum(one for _, one, _ in each)
    whole = values(worker(counts, flying, [wait for _, _, waits in each for wait in waits]))

    assert merged == whole


def test_types_and_words_are_kept() -> None:
    text = merge([worker([1], 1, []), worker([1], 1, [])])

    assert "# TYPE hs_requests_total counter\n" in text
    assert "# HELP hs_requests_total Requests \\\\ and\\nmore\n" in text
    assert "# TYPE hs_wait_seconds histogram\n" in text


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_worker_that_tells_nothing_counts_nothing(text: str) -> None:
    assert values(merge([worker([3], 1, []), text])) == values(worker([3], 1, []))
