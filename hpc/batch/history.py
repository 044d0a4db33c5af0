"""How fast a batch went: each worker keeps a few hundred moments, however long it works."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpc.batch.model import BatchWorker

    Moment = tuple[float, int, int]

POINTS = 240
BINS = 60
RECENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a batch went for a while.

    Attributes:
        at: Unix time of its middle.
        requests: per second, answered or given up.
        tokens: per second, of completions.
        workers: at work on average.
    """

    at: float
    requests: float
    tokens: float
    workers: float


def extended(history: Sequence[Moment], moment: Moment) -> tuple[Moment, ...]:
    """Return a history with one more moment; older ones are thinned where there are too many."""
    kept = tuple(history)
    if len(kept) > 1 and moment[0] - kept[-2][0] < (moment[0] - kept[0][0]) / POINTS:
        kept = kept[:-1]
    kept = (*kept, moment)
    return kept if len(kept) <= 2 * POINTS else (*kept[:-1:2], kept[-1])


def paces(workers: Iterable[BatchWorker], bins: int = BINS) -> list[Pace]:
    """Return how fast a batch went from its first to its last moment, in equal parts."""
    past = [worker.history for worker in workers if len(worker.history) > 1]
    if not past:
        return []
    first, last = min(one[0][0] for one in past), max(one[-1][0] for one in past)
    edges = [first + (last - first) * n / bins for n in range(bins + 1)]
    return [_pace(past, start, end) for start, end in pairwise(edges) if end > start]


def recent(workers: Iterable[BatchWorker], now: float) -> tuple[float, float]:
    """Return the requests and tokens per second of those at work, over the last minute."""
    past = [worker.history for worker in workers if worker.history and not worker.ended]
    found = [_pace([one], max(one[0][0], now - RECENT_S), one[-1][0]) for one in past]
    return sum(one.requests for one in found), sum(one.tokens for one in found)


def overall(workers: Iterable[BatchWorker]) -> tuple[float, float]:
    """Return the requests and tokens per second from the first to the last moment."""
    (whole,) = paces(workers, bins=1) or [Pace(0.0, 0.0, 0.0, 0.0)]
    return whole.requests, whole.tokens


def _pace(past: Iterable[Sequence[Moment]], start: float, end: float) -> Pace:
    requests = tokens = there = 0.0
    for one in past:
        requests += _total(one, end, 1) - _total(one, start, 1)
        tokens += _total(one, end, 2) - _total(one, start, 2)
        there += max(0.0, min(end, one[-1][0]) - max(start, one[0][0]))
    length = max(end - start, 1e-9)
    return Pace((start + end) / 2, requests / length, tokens / length, there / length)


def _total(history: Sequence[Moment], at: float, field: int) -> float:
    """Return a count at some time, on a straight line between the moments around it."""
    if at <= history[0][0]:
        return 0.0
    for before, after in pairwise(history):
        if at <= after[0]:
            part = (at - before[0]) / max(after[0] - before[0], 1e-9)
            return before[field] + part * (after[field] - before[field])
    return float(history[-1][field])
