"""How many requests to have in flight: more while that helps, fewer when the engine says so."""

from __future__ import annotations

GROWTH = 1.5
HELPED = 1.04
"""Throughput by which a higher limit must win to stay."""
BACK_OFF = 0.7
REST = 8
"""Windows without a gain after which a higher limit is tried again."""
SMALLEST_WINDOW = 8


class Pace:
    """A limit that climbs to the smallest number in flight with the best throughput.

    Args:
        start: the first limit.
        ceiling: the highest.
        now: a clock, in seconds.
    """

    def __init__(self, start: int, ceiling: int, now: float) -> None:
        self._limit = float(min(start, ceiling))
        self._ceiling = ceiling
        self._since = now
        self._count = 0
        self._best = (0.0, self._limit)
        self._rest = 0
        self._refusals = 0

    @property
    def limit(self) -> int:
        """Return how many requests may be in flight."""
        return max(1, int(self._limit))

    def answered(self, now: float) -> None:
        """Count an answer; judge the limit when a window is full."""
        self._count += 1
        if self._count < max(SMALLEST_WINDOW, 2 * self.limit) or now <= self._since:
            return
        rate = self._count / (now - self._since)
        self._since, self._count, self._refusals = now, 0, 0
        if rate > self._best[0] * HELPED:
            self._best = (rate, self._limit)
            self._set(self._limit * GROWTH)
        elif self._rest == 0:
            self._best = (self._best[0] * 0.95, self._best[1])  # an engine's best is not for ever
            self._set(self._best[1])
            self._rest = REST
        else:
            self._rest -= 1
            if self._rest == 0:
                self._set(self._limit * GROWTH)

    def refused(self, now: float) -> None:
        """Back off, as an engine is overloaded; once for all that were in flight together."""
        self._refusals += 1
        if self._refusals > 1 and self._count + self._refusals <= self._limit / BACK_OFF:
            return
        self._set(self._limit * BACK_OFF)
        self._best = (self._best[0] * BACK_OFF, self._limit)
        self._since, self._count, self._rest, self._refusals = now, 0, REST, 1

    def _set(self, limit: float) -> None:
        self._limit = min(
            max(1.0, limit, self.limit + 1 if limit > self._limit else 0), self._ceiling
        )
