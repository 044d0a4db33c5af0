"""The throughput of a batch: each worker keeps a few hundred samples, however long it works."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hpc import own_source
from hpc.errors import BatchError, ConfigError
from hpc.state import private

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpc.batch.model import BatchWorker

    Moment = tuple[float, int, int]
    from pathlib import Path

POINTS = 240
BINS = 60
RECENT_S = 60.0


@dataclass(frozen=True, slots=True)
class ThroughputSample:
    """The throughput of a batch over one interval.

    Attributes:
        at: Unix time of the interval's middle.
        requests: answered or failed requests per second.
        tokens: completion tokens per second.
        workers: average number of running workers.
    """

    at: float
    requests: float
    tokens: float
    workers: float


def extended(history: Sequence[Moment], moment: Moment) -> tuple[Moment, ...]:
    """Return a history with a new sample; older samples are thinned beyond a limit."""
    kept = tuple(history)
    # A sample closer than 1/240 of the run to the one before the last replaces the last.
    if len(kept) > 1 and moment[0] - kept[-2][0] < (moment[0] - kept[0][0]) / POINTS:
        kept = kept[:-1]
    kept = (*kept, moment)
    # Halving at twice the limit keeps between 240 and 480 samples for any length of run.
    return kept if len(kept) <= 2 * POINTS else (*kept[:-1:2], kept[-1])


def paces(workers: Iterable[BatchWorker], bins: int = BINS) -> list[ThroughputSample]:
    """Return the throughput from the first to the last sample, in equal intervals."""
    past = [worker.history for worker in workers if len(worker.history) > 1]
    if not past:
        return []
    first, last = min(one[0][0] for one in past), max(one[-1][0] for one in past)
    edges = [first + (last - first) * n / bins for n in range(bins + 1)]
    return [_pace(past, start, end) for start, end in pairwise(edges) if end > start]


def recent(workers: Iterable[BatchWorker], now: float) -> tuple[float, float]:
    """Return the requests and tokens per second of running workers over the last minute."""
    past = [worker.history for worker in workers if worker.history and not worker.ended]
    found = [_pace([one], max(one[0][0], now - RECENT_S), one[-1][0]) for one in past]
    return sum(one.requests for one in found), sum(one.tokens for one in found)


def overall(workers: Iterable[BatchWorker]) -> tuple[float, float]:
    """Return the requests and tokens per second from the first to the last sample."""
    (whole,) = paces(workers, bins=1) or [ThroughputSample(0.0, 0.0, 0.0, 0.0)]
    return whole.requests, whole.tokens


def _pace(past: Iterable[Sequence[Moment]], start: float, end: float) -> ThroughputSample:
    requests = tokens = there = 0.0
    for one in past:
        requests += _total(one, end, 1) - _total(one, start, 1)
        tokens += _total(one, end, 2) - _total(one, start, 2)
        there += max(0.0, min(end, one[-1][0]) - max(start, one[0][0]))
    length = max(end - start, 1e-9)
    return ThroughputSample((start + end) / 2, requests / length, tokens / length, there / length)


def _total(history: Sequence[Moment], at: float, field: int) -> float:
    """Return a count at a time, interpolated linearly between the two nearest samples."""
    if at <= history[0][0]:
        return 0.0
    for before, after in pairwise(history):
        if at <= after[0]:
            part = (at - before[0]) / max(after[0] - before[0], 1e-9)
            return before[field] + part * (after[field] - before[field])
    return float(history[-1][field])


KINDS = (".svg", ".png", ".pdf")
INCHES = (8.0, 6.0)


def draw(paces: Sequence[ThroughputSample], path: Path, *, title: str) -> None:
    """Draw requests per second, tokens per second and workers over the time since the start.

    Args:
        paces: throughput of successive intervals.
        path: file to write; its suffix selects the format.
        title: heading of the plot.

    Raises:
        ConfigError: the suffix is unknown, or matplotlib is not installed.
        BatchError: no data exist yet, or the file cannot be written.
    """
    if path.suffix.lower() not in KINDS:
        raise ConfigError(f"cannot draw {path}: the name must end in {', '.join(KINDS)}")
    if not paces:
        raise BatchError("nothing to draw: no worker has recorded its throughput yet")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib, which is not installed",
            hint=own_source.pip_command("plot"),
        ) from error
    figure = Figure(figsize=INCHES, layout="constrained")
    figure.suptitle(title)
    minutes = [(pace.at - paces[0].at) / 60 for pace in paces]
    series = {
        "requests/s": [pace.requests for pace in paces],
        "tokens/s": [pace.tokens for pace in paces],
        "workers": [pace.workers for pace in paces],
    }
    for axes, (name, values) in zip(
        figure.subplots(len(series), sharex=True), series.items(), strict=True
    ):
        axes.plot(minutes, values)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    axes.set_xlabel("minutes")
    try:
        with private.users_umask():
            figure.savefig(path)
    except OSError as error:
        raise BatchError(f"cannot write {path}: {error.strerror}") from error
