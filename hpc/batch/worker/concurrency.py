"""The number of requests in flight: raised while throughput grows, cut on overload."""

from __future__ import annotations

GROWTH, HELPED = 1.5, 1.04
"""Factor of a higher limit, and the throughput gain that the higher limit must show to stay."""
FIRST_GROWTH, FIRST_HELPED = 2.0, 1.2
"""The same for the first climb, which ends with the first step without a gain or the first refusal.
A window takes as long as an answer, so smaller steps would need minutes to reach 256 in flight."""
BACK_OFF = 0.7
REST = 8
"""Windows without a gain until a higher limit is tried again."""
SMALLEST_WINDOW = 8


class ConcurrencyLimit:
    """A concurrency limit that climbs to the smallest number in flight with the best throughput.

    Args:
        start: the first limit.
        ceiling: the highest limit.
        now: current time of a clock, in seconds.
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
        """Return the number of requests allowed in flight."""
        return max(1, int(self._limit))

    def answered(self, now: float) -> None:
        """Count an answer, and judge the limit when a window is full."""
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
            self._best = (best * 0.95, limit)  # forget slowly: an engine's best may not return
            self._set(limit)
            self._first, self._rest = False, REST
        else:
            self._rest -= 1
            if self._rest == 0:
                self._set(self._limit * GROWTH)

    def refused(self, now: float) -> None:
        """Reduce the limit for an overloaded engine, once for all requests in flight together."""
        self._refusals += 1
        if self._refusals > 1 and self._count + self._refusals <= self._limit / BACK_OFF:
            return
        self._first = False
        self._set(self._limit * BACK_OFF)
        self._best = (self._best[0] * BACK_OFF, self._limit)
        self._since, self._count, self._rest, self._refusals = now, 0, REST, 1

    def _set(self, limit: float) -> None:
        # A climb takes at least one step: int(1 * GROWTH) would stay at 1 for ever.
        self._limit = min(
            max(1.0, limit, self.limit + 1 if limit > self._limit else 0), self._ceiling
        )
