"""Plain counters, cheap enough for several additions per request."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper ends of the buckets for waiting times of clients, in seconds."""
BETWEEN = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of the buckets for the time between two pieces of an answer, in seconds."""
OVERHEAD = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)
"""Upper ends of the buckets for the gateway's own time, in seconds."""


class Histogram:
    """Counts of values by bucket.

    Args:
        ends: upper ends of the buckets, ascending; a last bucket holds larger values.
    """

    __slots__ = ("counts", "ends", "total")

    def __init__(self, ends: tuple[float, ...]) -> None:
        self.ends = ends
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.ends, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by upper end, in Prometheus' form."""
        found, so_far = [], 0
        for end, count in zip((*self.ends, None), self.counts, strict=True):
            so_far += count
            found.append(("+Inf" if end is None else repr(end), float(so_far)))
        return found


class ModelCounters:
    """The counters of one model."""

    __slots__ = ("between", "duration", "hits", "misses", "overhead", "queue", "retries", "ttft")

    def __init__(self) -> None:
        self.ttft = Histogram(SECONDS)
        self.duration = Histogram(SECONDS)
        self.queue = Histogram(SECONDS)
        self.between = Histogram(BETWEEN)
        self.overhead = Histogram(OVERHEAD)
        self.retries = self.hits = self.misses = 0

    def histograms(self) -> dict[str, Histogram]:
        """Return the histograms by name."""
        return {
            "time_to_first_byte": self.ttft,
            "request_duration": self.duration,
            "queue_wait": self.queue,
            "inter_token": self.between,
            "overhead": self.overhead,
        }


class KeyCounters:
    """The counters of one model, key and class of status."""

    __slots__ = ("completion", "model", "prompt", "requests")

    def __init__(self, model: ModelCounters) -> None:
        self.model = model
        self.requests = self.prompt = self.completion = 0


class Counters:
    """All counters; added to in the event loop, read in any thread."""

    def __init__(self) -> None:
        self.models: dict[str, ModelCounters] = {}
        self.keys: dict[tuple[str, str, int], KeyCounters] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.limited: dict[tuple[str, str], int] = {}

    def of(self, model: str, key: str, status: int) -> KeyCounters:
        """Return the counters of a kind of request; new ones if needed.

        Args:
            model: name from a bounded set.
            key: name of the key.
            status: HTTP status divided by 100.
        """
        found = self.keys.get((model, key, status))
        if found is None:
            tally = self.models.get(model)
            if tally is None:
                tally = self.models[model] = ModelCounters()
            found = self.keys[model, key, status] = KeyCounters(tally)
        return found

    def error(self, model: str, kind: str) -> None:
        """Count a failed request."""
        self.errors[model, kind] = self.errors.get((model, kind), 0) + 1

    def keep(self, models: Collection[str]) -> None:
        """Remove the counters of all models other than the given models."""
        gone = self.models.keys() - models
        for name in gone:
            self.models.pop(name, None)
        # ``copy`` of a dict is atomic, iteration is not: the event loop adds keys meanwhile.
        for at in [at for at in self.keys.copy() if at[0] in gone]:
            self.keys.pop(at, None)
        for pair in [pair for pair in self.errors.copy() if pair[0] in gone]:
            self.errors.pop(pair, None)

    def limit(self, key: str, kind: str) -> None:
        """Count a request that a limit refused."""
        self.limited[key, kind] = self.limited.get((key, kind), 0) + 1
