"""What a batch remembers of its pace, and how that is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.batch import throughput
from hpc.batch import throughput as batch_throughput
from hpc.batch.model import BatchWorker
from hpc.cli.batch.text import BARS, bars
from hpc.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

STEPS = st.lists(
    st.tuples(st.floats(0.01, 1e4), st.integers(0, 500), st.integers(0, 5000)),
    min_size=1,
    max_size=2000,
)


def worker(past: tuple[tuple[float, int, int], ...], *, ended: bool = False) -> BatchWorker:
    return BatchWorker("w", "1", "n", past[0][0], past[-1][0], history=past, ended=ended)


def lived(steps: list[tuple[float, int, int]], start: float = 1000.0) -> BatchWorker:
    at, requests, tokens = start, 0, 0
    past = throughput.extended((), (at, requests, tokens))
    for seconds, more, words in steps:
        at, requests, tokens = at + seconds, requests + more, tokens + words
        past = throughput.extended(past, (at, requests, tokens))
    return worker(past)


@given(STEPS)
def test_a_history_is_bounded_in_order_and_keeps_its_ends(
    steps: list[tuple[float, int, int]],
) -> None:
    past = lived(steps).history
    assert len(past) <= 2 * throughput.POINTS
    assert list(past) == sorted(past)
    assert past[0] == (1000.0, 0, 0)
    assert past[-1][1:] == (sum(s[1] for s in steps), sum(s[2] for s in steps))


@given(STEPS, STEPS, st.floats(0, 1e4))
def test_the_paces_add_up_to_all_that_was_done(
    one: list[tuple[float, int, int]], other: list[tuple[float, int, int]], later: float
) -> None:
    workers = [lived(one), lived(other, 1000.0 + later)]
    paces = throughput.paces(workers)
    length = (max(w.beat_at for w in workers) - 1000.0) / len(paces)
    total = sum(w.history[-1][1] for w in workers)
    assert sum(pace.requests for pace in paces) * length == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert max(pace.workers for pace in paces) <= 2.0001
    whole = length * len(paces)
    assert throughput.overall(workers)[0] * whole == pytest.approx(total, rel=1e-6, abs=1e-6)


def test_the_recent_pace_is_that_of_those_at_work() -> None:
    past = ((0.0, 0, 0), (100.0, 1000, 0), (160.0, 1060, 600))
    found = throughput.recent([worker(past), worker(past, ended=True)], 160.0)
    assert found == pytest.approx((1.0, 10.0))


def test_bars_are_as_high_as_the_values() -> None:
    assert bars([0, 7, 3.5]) == BARS[0] + BARS[7] + BARS[4]
    assert bars([]) == ""


def test_a_plot_is_drawn_and_its_faults_are_told(tmp_path: Path) -> None:
    paces = throughput.paces([lived([(5.0, 10, 100)] * 50)])
    for name in ("a.svg", "a.png"):
        batch_throughput.draw(paces, tmp_path / name, title="batch")
        assert (tmp_path / name).stat().st_size > 1000
    assert (
        "requests/s" in (tmp_path / "a.svg").read_text()
        or "<svg" in (tmp_path / "a.svg").read_text()
    )
    with pytest.raises(ConfigError, match=r"must end in \.svg, \.png, \.pdf"):
        batch_throughput.draw(paces, tmp_path / "a.gif", title="batch")
    with pytest.raises(BatchError, match="nothing to draw"):
        batch_throughput.draw([], tmp_path / "b.svg", title="batch")
    with pytest.raises(BatchError, match="cannot write"):
        batch_throughput.draw(paces, tmp_path / "none" / "a.svg", title="batch")
