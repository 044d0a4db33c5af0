"""The last 15 minutes in steps of ten seconds: counts, and rates and times computed from them.

Nothing is recorded per request. The counters of ``counters`` are read at the end of each step, and
their growth is kept; a step without requests takes no room.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from gateway_lite.telemetry.counters import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway_lite.telemetry.counters import Counters, Histogram

STEP_S = 10
STEPS = 90
"""Number of kept steps: 15 minutes."""
REFUSED, FAILED = 4, 5
"""Classes of status: 4xx and 5xx."""


class WindowCounts(msgspec.Struct, array_like=True):
    """The counts of one model in some time.

    Attributes:
        served: requests with a good answer.
        refused: requests with a status from 400 to 499.
        failed: requests with a status from 500 on.
        prompt: prompt tokens.
        completion: generated tokens.
        ttft: counts of times to the first byte, by bucket; empty for none.
        duration: counts of times to the last byte.
    """

    served: int = 0
    refused: int = 0
    failed: int = 0
    prompt: int = 0
    completion: int = 0
    ttft: list[int] = []
    duration: list[int] = []

    def add(self, other: WindowCounts) -> None:
        """Add another model's or process's counts."""
        self.served += other.served
        self.refused += other.refused
        self.failed += other.failed
        self.prompt += other.prompt
        self.completion += other.completion
        self.ttft = _plus(self.ttft, other.ttft)
        self.duration = _plus(self.duration, other.duration)

    def since(self, before: WindowCounts) -> WindowCounts:
        """Return the growth since another reading of the same counters."""
        return WindowCounts(
            self.served - before.served,
            self.refused - before.refused,
            self.failed - before.failed,
            self.prompt - before.prompt,
            self.completion - before.completion,
            _minus(self.ttft, before.ttft),
            _minus(self.duration, before.duration),
        )

    @property
    def impossible(self) -> bool:
        """Whether a count is negative, as after a restart of the counters."""
        counts = (self.served, self.refused, self.failed, self.prompt, self.completion)
        return min(*counts, *self.ttft, *self.duration) < 0

    @property
    def requests(self) -> int:
        """Number of all ended requests."""
        return self.served + self.refused + self.failed


class Step(msgspec.Struct, array_like=True):
    """The growth of all counters between two readings.

    Attributes:
        models: counts by model.
        keys: requests, without those refused by a limit, and tokens, by name of the key.
    """

    models: dict[str, WindowCounts] = {}
    keys: dict[str, tuple[int, int]] = {}

    def add(self, other: Step) -> None:
        """Add the counts of another process's step."""
        for name, window_counts in other.models.items():
            self.models.setdefault(name, WindowCounts()).add(window_counts)
        for name, (requests, tokens) in other.keys.items():
            known = self.keys.get(name, (0, 0))
            self.keys[name] = (known[0] + requests, known[1] + tokens)


class History:
    """The steps of a process; ``look`` runs in the event loop.

    Args:
        counters: the counters.
        clock: returns Unix time; processes with the same clock have matching steps.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.time) -> None:
        self._counters = counters
        self._clock = clock
        self._ended: deque[tuple[int, Step]] = deque(maxlen=STEPS)
        self._open = (self.number(), read(counters))

    def look(self) -> None:
        """Keep an ended step; called about once a second."""
        number = self.number()
        last, before = self._open
        if number != last:
            now = read(self._counters)
            step = grown(now, before)
            if step.keys:
                self._ended.append((last, step))
            self._open = (number, now)

    def number(self) -> int:
        """Return the number of the present step."""
        # Numbered by Unix time, so that the steps of all workers have the same edges and can be
        # added.
        return int(self._clock() // STEP_S)

    def steps(self) -> dict[int, Step]:
        """Return the counts by number of the step, the present step included."""
        number, before = self._open
        found = {at: step for at, step in self._ended.copy() if at > number - STEPS}
        found[number] = grown(read(self._counters), before)
        return found


def read(counters: Counters) -> Step:
    """Return the counts since the start."""
    found = Step()
    for (model, key, status), tally in counters.keys.copy().items():
        window_counts = found.models.setdefault(model, WindowCounts())
        if status == REFUSED:
            window_counts.refused += tally.requests
        elif status >= FAILED:
            window_counts.failed += tally.requests
        else:
            window_counts.served += tally.requests
        window_counts.prompt += tally.prompt
        window_counts.completion += tally.completion
        requests, tokens = found.keys.get(key, (0, 0))
        tokens += tally.prompt + tally.completion
        found.keys[key] = (requests + tally.requests, tokens)
    for (key, _), count in counters.limited.copy().items():
        requests, tokens = found.keys.get(key, (0, 0))
        found.keys[key] = (max(0, requests - count), tokens)
    for model, times in counters.models.copy().items():
        window_counts = found.models.setdefault(model, WindowCounts())
        window_counts.ttft, window_counts.duration = _counts(times.ttft), _counts(times.duration)
    return found


def grown(now: Step, before: Step) -> Step:
    """Return the growth between two readings; restarted counters count from zero."""
    models = {
        n: window_counts.since(before.models.get(n, WindowCounts()))
        for n, window_counts in now.models.items()
    }
    models = {
        n: now.models[n] if window_counts.impossible else window_counts
        for n, window_counts in models.items()
    }
    keys = {}
    for name, (requests, tokens) in now.keys.items():
        known = before.keys.get(name, (0, 0))
        anew = requests < known[0]
        keys[name] = (requests, tokens) if anew else (requests - known[0], tokens - known[1])
    return Step(
        {name: window_counts for name, window_counts in models.items() if window_counts.requests},
        {name: counts for name, counts in keys.items() if any(counts)},
    )


def joined(several: Iterable[dict[int, Step]]) -> dict[int, Step]:
    """Return the steps of several processes, added up."""
    found: dict[int, Step] = {}
    for steps in several:
        for number, step in steps.items():
            found.setdefault(number, Step()).add(step)
    return found


def window_counts(steps: dict[int, Step], first: int, models: Iterable[str]) -> WindowCounts:
    """Return the counts of some models since a step, this step included."""
    names = set(models)
    total = WindowCounts()
    for number, step in steps.items():
        if number >= first:
            for name in names & step.models.keys():
                total.add(step.models[name])
    return total


def quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the time that a share of the values does not exceed, by Prometheus' estimate.

    Args:
        counts: values by bucket of SECONDS; the last bucket holds larger values.
        share: from 0 to 1.
    """
    total = sum(counts)
    if not total:
        return None
    so_far, sums = 0, []
    for count in counts:
        so_far += count
        sums.append(so_far)
    rank = share * total
    at = bisect_left(sums, rank) if rank else next(n for n, c in enumerate(counts) if c)
    if at >= len(SECONDS):
        return SECONDS[-1]
    low = SECONDS[at - 1] if at else 0.0
    return low + (SECONDS[at] - low) * (rank - (sums[at] - counts[at])) / counts[at]


def _counts(histogram: Histogram) -> list[int]:
    return histogram.counts.copy() if any(histogram.counts) else []


def _plus(one: list[int], other: list[int]) -> list[int]:
    if not one or not other:
        return [*(one or other)]
    return [a + b for a, b in zip(one, other, strict=True)]


def _minus(one: list[int], other: list[int]) -> list[int]:
    if not other:
        return [*one]
    return [a - b for a, b in zip(one, other, strict=True)] if one else []
