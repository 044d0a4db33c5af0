"""The last 15 minutes in steps of ten seconds: counts, and rates and times computed from them.

Nothing is recorded per request. The counters of ``tallies`` are read at the end of each step, and
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

    from gateway_lite.telemetry.counters import Histogram, Tallies

STEP_S = 10
STEPS = 90
"""Number of kept steps: 15 minutes."""
REFUSED, FAILED = 4, 5
"""Classes of status: 4xx and 5xx."""


class Flow(msgspec.Struct, array_like=True):
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

    def add(self, other: Flow) -> None:
        """Add another model's or process's counts."""
        self.served += other.served
        self.refused += other.refused
        self.failed += other.failed
        self.prompt += other.prompt
        self.completion += other.completion
        self.ttft = _plus(self.ttft, other.ttft)
        self.duration = _plus(self.duration, other.duration)

    def since(self, before: Flow) -> Flow:
        """Return the growth since another reading of the same counters."""
        return Flow(
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

    models: dict[str, Flow] = {}
    keys: dict[str, tuple[int, int]] = {}

    def add(self, other: Step) -> None:
        """Add the counts of another process's step."""
        for name, flow in other.models.items():
            self.models.setdefault(name, Flow()).add(flow)
        for name, (requests, tokens) in other.keys.items():
            known = self.keys.get(name, (0, 0))
            self.keys[name] = (known[0] + requests, known[1] + tokens)


class History:
    """The steps of a process; ``look`` runs in the event loop.

    Args:
        tallies: the counters.
        clock: returns Unix time; processes with the same clock have matching steps.
    """

    def __init__(self, tallies: Tallies, clock: Callable[[], float] = time.time) -> None:
        self._tallies = tallies
        self._clock = clock
        self._ended: deque[tuple[int, Step]] = deque(maxlen=STEPS)
        self._open = (self.number(), read(tallies))

    def look(self) -> None:
        """Keep an ended step; called about once a second."""
        number = self.number()
        last, before = self._open
        if number != last:
            now = read(self._tallies)
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
        found[number] = grown(read(self._tallies), before)
        return found


def read(tallies: Tallies) -> Step:
    """Return the counts since the start."""
    found = Step()
    for (model, key, status), tally in tallies.keys.copy().items():
        flow = found.models.setdefault(model, Flow())
        if status == REFUSED:
            flow.refused += tally.requests
        elif status >= FAILED:
            flow.failed += tally.requests
        else:
            flow.served += tally.requests
        flow.prompt += tally.prompt
        flow.completion += tally.completion
        requests, tokens = found.keys.get(key, (0, 0))
        tokens += tally.prompt + tally.completion
        found.keys[key] = (requests + tally.requests, tokens)
    for (key, _), count in tallies.limited.copy().items():
        requests, tokens = found.keys.get(key, (0, 0))
        found.keys[key] = (max(0, requests - count), tokens)
    for model, times in tallies.models.copy().items():
        flow = found.models.setdefault(model, Flow())
        flow.ttft, flow.duration = _counts(times.ttft), _counts(times.duration)
    return found


def grown(now: Step, before: Step) -> Step:
    """Return the growth between two readings; restarted counters count from zero."""
    models = {n: flow.since(before.models.get(n, Flow())) for n, flow in now.models.items()}
    models = {n: now.models[n] if flow.impossible else flow for n, flow in models.items()}
    keys = {}
    for name, (requests, tokens) in now.keys.items():
        known = before.keys.get(name, (0, 0))
        anew = requests < known[0]
        keys[name] = (requests, tokens) if anew else (requests - known[0], tokens - known[1])
    return Step(
        {name: flow for name, flow in models.items() if flow.requests},
        {name: counts for name, counts in keys.items() if any(counts)},
    )


def joined(several: Iterable[dict[int, Step]]) -> dict[int, Step]:
    """Return the steps of several processes, added up."""
    found: dict[int, Step] = {}
    for steps in several:
        for number, step in steps.items():
            found.setdefault(number, Step()).add(step)
    return found


def flow(steps: dict[int, Step], first: int, models: Iterable[str]) -> Flow:
    """Return the counts of some models since a step, this step included."""
    names = set(models)
    total = Flow()
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
