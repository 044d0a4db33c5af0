"""How many requests to have in flight: more while that helps, fewer when the engine says so."""

from __future__ import annotations

GROWTH, HELPED = 1.5, 1.04
"""Throughput by which a higher limit must win to stay."""
FIRST_GROWTH, FIRST_HELPED = 2.0, 1.2
"""The same until a higher limit has not helped or the engine has refused: each window takes as long
as an answer, and 256 at once should not be reached after minutes only."""
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
        self._first = True
        self._rest = 0
        self._refusals = 0

    @property
    def limit(self) -> int:
        """Return how many requests may be in flight."""
        return max(1, int(self._limit))

    def answered(self, now: float) -> None:
        """Count an answer; judge the limit when a window is full."""
        self._count += 1
        window = self.limit if self._first else 2 * self.limit
        if self._count < max(SMALLEST_WINDOW, window) or now <= self._since:
            return
        rate = self._count / (now - self._since)
        self._since, self._count, self._refusals = now, 0, 0
        self._judge(rate)

    def _judge(self, rate: float) -> None:
        best, limit = self._best
        if rate > best * HELPED:
            self._best = (rate, self._limit)
            if not self._first:
                self._set(self._limit * GROWTH)
            elif rate > best * FIRST_HELPED:
                self._set(self._limit * FIRST_GROWTH)
            else:
                self._first, self._rest = False, REST
        elif self._rest == 0:
            self._best = (best * 0.95, limit)  # an engine's best is not for ever
            self._set(limit)
            self._first, self._rest = False, REST
        else:
            self._rest -= 1
            if self._rest == 0:
                self._set(self._limit * GROWTH)

    def refused(self, now: float) -> None:
        """Back off, as an engine is overloaded; once for all that were in flight together."""
        self._refusals += 1
        if self._refusals > 1 and self._count + self._refusals <= self._limit / BACK_OFF:
            return
        self._first = False
        self._set(self._limit * BACK_OFF)
        self._best = (self._best[0] * BACK_OFF, self._limit)
        self._since, self._count, self._rest, self._refusals = now, 0, REST, 1

    def _set(self, limit: float) -> None:
        self._limit = min(
            max(1.0, limit, self.limit + 1 if limit > self._limit else 0), self._ceiling
        )
