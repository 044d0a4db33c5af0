"""The usage window of one key in plain cells: exact, of fixed size, the same in shared memory.

A minute is counted in 61 buckets of one second, the current second included. The buckets cover any
60 seconds that end now, so that no 60 seconds ever see more than the limit; the price is that a
request may count for up to one second longer than a minute. A log of every request would be exact
to the microsecond and unbounded; a counter weighted over two fixed windows, or a token bucket as
large as the limit, admits more than the limit in some windows.
"""

from __future__ import annotations

import time
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from gateway_lite.shared_memory import WORKERS
from hpc.keys.usage import DAY_S, Use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableSequence

    from hpc.keys.limits import KeyLimits

RING = 61
# Positions in an account's cells. Columns of workers follow COLUMNS, then the two rings.
NAME, AT, REQUESTS, TOKENS, IN_FLIGHT = range(5)
DAY, DAY_TOKENS, DAY_REQUESTS, ALL_TOKENS, ALL_REQUESTS = range(5, 10)
AWAY_DAY, AWAY_TOKENS, AWAY_ALL = range(10, 13)
COLUMNS = 13
REQUEST_RING = COLUMNS + WORKERS
TOKEN_RING = REQUEST_RING + RING
CELLS = TOKEN_RING + RING
ZEROS = array("q", bytes(8 * 2 * RING))
FREE_S = 1.0
"""Suggested wait in seconds at a concurrency limit: a request in progress may have ended by then.
"""


class Guard(Protocol):
    """A lock of the cells against other processes."""

    def lock(self) -> None:
        """Wait for the lock and take it."""

    def unlock(self) -> None:
        """Release the lock."""


@contextmanager
def held(guard: Guard | None) -> Iterator[None]:
    """Hold a guard; None, without other processes, is free."""
    if guard is None:
        yield
        return
    guard.lock()
    try:
        yield
    finally:
        guard.unlock()


class UsageWindow:
    """The usage counts of one key.

    Args:
        cells: CELLS numbers at fixed positions.
        guard: keeps other processes out of the cells; None without other processes.
        worker: number of this process among the processes that share the cells.
        clock: returns monotonic seconds, the same in all processes.
        wall: returns seconds since 1970, for the day.
    """

    __slots__ = ("_cells", "_clock", "_column", "_guard", "_midnight", "_wall")

    def __init__(
        self,
        cells: MutableSequence[int],
        guard: Guard | None = None,
        worker: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._cells = cells
        self._guard = guard
        self._column = COLUMNS + worker
        self._clock = clock
        self._wall = wall
        self._midnight = 0

    def reserve(self, rules: Rules, tokens: int) -> Reservation:
        """Admit a request with its estimated tokens.

        Raises:
            LimitExceeded: a limit refuses the request; nothing is counted then.
        """
        # Without ``held``, whose generator costs each request about 1 us; so in ``settle``.
        guard = self._guard
        if guard is None:
            return self._reserve(rules, tokens)
        guard.lock()
        try:
            return self._reserve(rules, tokens)
        finally:
            guard.unlock()

    def room(self, rules: Rules) -> int:
        """Return the most tokens that one request may take now.

        The minute counts in full: its tokens come back, and a request may wait for that. What is
        left of a budget is all there will be.
        """
        with held(self._guard):
            return self._room(rules)

    def check(self, rules: Rules) -> None:
        """Refuse a request if the requests of the minute are used up.

        Raises:
            LimitExceeded: they are.
        """
        # Without the lock first: most requests find room, and an old count is never too low by
        # more than the requests of other workers at this moment.
        if self._cells[REQUESTS] < rules.rpm:
            return
        with held(self._guard):
            self._advance()
            if self._cells[REQUESTS] >= rules.rpm:
                raise self._full(rules, 0, self._roll())

    def count(self) -> None:
        """Count a request of the minute that uses no tokens."""
        with held(self._guard):
            at = self._advance() % RING
            self._cells[REQUESTS] += 1
            self._cells[REQUEST_RING + at] += 1

    def settle(self, reservation: Reservation, used: int) -> None:
        """End a request, and replace the estimate by the used tokens."""
        guard = self._guard
        if guard is None:
            self._settle(reservation, used)
            return
        guard.lock()
        try:
            self._settle(reservation, used)
        finally:
            guard.unlock()

    def add(self, tokens: int, requests: int) -> None:
        """Count usage that no limit applies to; the caller holds the guard."""
        cells = self._cells
        self._roll()
        cells[DAY_TOKENS] += tokens
        cells[DAY_REQUESTS] += requests
        cells[ALL_TOKENS] += tokens
        cells[ALL_REQUESTS] += requests

    def use(self) -> Use:
        """Return the usage; the caller holds the guard."""
        return Use(*self._cells[DAY : ALL_REQUESTS + 1])

    def begin(self, use: Use) -> None:
        """Continue from the counts of an earlier process; the caller holds the guard."""
        cells = self._cells
        cells[DAY], cells[DAY_TOKENS], cells[DAY_REQUESTS] = (
            use.day,
            use.day_tokens,
            use.day_requests,
        )
        cells[ALL_TOKENS], cells[ALL_REQUESTS] = use.tokens, use.requests

    def elsewhere(self, use: Use) -> None:
        """Count the usage at other gateways towards budgets; the caller holds the guard."""
        cells = self._cells
        cells[AWAY_DAY], cells[AWAY_TOKENS], cells[AWAY_ALL] = use.day, use.day_tokens, use.tokens

    def repair(self) -> None:
        """Remove an earlier process's requests in progress; the caller holds the guard.

        The earlier process had our number.
        """
        cells = self._cells
        cells[self._column] = 0
        # The sums are made anew: a killed process may have written a bucket and not yet its sum.
        cells[IN_FLIGHT] = sum(cells[COLUMNS:REQUEST_RING])
        cells[REQUESTS] = sum(cells[REQUEST_RING:TOKEN_RING])
        cells[TOKENS] = sum(cells[TOKEN_RING:CELLS])

    def _reserve(self, rules: Rules, tokens: int) -> Reservation:
        cells = self._cells
        second = cells[AT]
        # At most once a second; all other requests of the second skip the rings.
        if int(self._clock()) > second:
            second = self._advance()
        # ``_midnight`` saves the division into days for all requests but the first of a day.
        day = self._roll() if self._wall() >= self._midnight else cells[DAY]
        requests = cells[REQUESTS] + 1
        in_minute = cells[TOKENS] + tokens
        flying = cells[IN_FLIGHT] + 1
        in_day = cells[DAY_TOKENS] + tokens
        in_all = cells[ALL_TOKENS] + tokens
        if (
            # All limits are tested before the first write, so a refused request leaves no trace.
            requests > rules.rpm
            or in_minute > rules.tpm
            or flying > rules.concurrency
            or (rules.daily is not None and in_day + self._away(day) > rules.daily)
            or (rules.total is not None and in_all + cells[AWAY_ALL] > rules.total)
        ):
            raise self._full(rules, tokens, day)
        at = second % RING
        cells[REQUESTS] = requests
        cells[REQUEST_RING + at] += 1
        cells[TOKENS] = in_minute
        cells[TOKEN_RING + at] += tokens
        cells[IN_FLIGHT] = flying
        cells[self._column] += 1
        cells[DAY_TOKENS] = in_day
        cells[DAY_REQUESTS] += 1
        cells[ALL_TOKENS] = in_all
        cells[ALL_REQUESTS] += 1
        return Reservation(self, rules, tokens, second, day, requests, in_minute)

    def _room(self, rules: Rules) -> int:
        cells = self._cells
        room = rules.tpm
        if rules.daily is not None:
            day = self._roll()
            room = min(room, rules.daily - cells[DAY_TOKENS] - self._away(day))
        if rules.total is not None:
            room = min(room, rules.total - cells[ALL_TOKENS] - cells[AWAY_ALL])
        return room

    def _settle(self, reservation: Reservation, used: int) -> None:
        """Return unused tokens in the second of the estimate, or charge more in the present."""
        cells = self._cells
        cells[IN_FLIGHT] -= 1
        cells[self._column] -= 1
        change = used - reservation.tokens
        if change > 0:
            # Tokens beyond the estimate count from now on: an old bucket would let them expire
            # early, and the next 60 seconds could exceed the limit.
            at = self._advance() % RING
            self._roll()
            cells[TOKENS] += change
            cells[TOKEN_RING + at] += change
            cells[DAY_TOKENS] += change
        elif change < 0:
            # Older buckets were cleared, estimate included, and now hold another second.
            if cells[AT] - reservation.second < RING:
                cells[TOKENS] += change
                cells[TOKEN_RING + reservation.second % RING] += change
            if cells[DAY] == reservation.day:
                cells[DAY_TOKENS] += change
        cells[ALL_TOKENS] += change

    def _away(self, day: int) -> int:
        return self._cells[AWAY_TOKENS] if self._cells[AWAY_DAY] == day else 0

    def _advance(self) -> int:
        """Clear the buckets older than a minute, and return the present second."""
        cells = self._cells
        second = int(self._clock())
        last = cells[AT]
        if second <= last:
            return last
        if cells[REQUESTS] or cells[TOKENS]:
            if second - last >= RING:
                cells[REQUEST_RING:CELLS] = ZEROS
                cells[REQUESTS] = cells[TOKENS] = 0
            else:
                self._forget(range(last + 1, second + 1))
        cells[AT] = second
        return second

    def _forget(self, seconds: range) -> None:
        cells = self._cells
        for second in seconds:
            at = second % RING
            cells[REQUESTS] -= cells[REQUEST_RING + at]
            cells[REQUEST_RING + at] = 0
            cells[TOKENS] -= cells[TOKEN_RING + at]
            cells[TOKEN_RING + at] = 0

    def _roll(self) -> int:
        """Begin a new day; a clock that goes back does not begin the old day again."""
        cells = self._cells
        day = int(self._wall()) // DAY_S
        if day > cells[DAY]:
            cells[DAY] = day
            cells[DAY_TOKENS] = cells[DAY_REQUESTS] = 0
        self._midnight = (cells[DAY] + 1) * DAY_S
        return cells[DAY]

    def _full(self, rules: Rules, tokens: int, day: int) -> LimitExceeded:
        """Return the limit that refuses the request for the longest time."""
        cells = self._cells
        of_day = cells[DAY_TOKENS] + self._away(day)
        of_all = cells[ALL_TOKENS] + cells[AWAY_ALL]
        midnight = (day + 1) * DAY_S - self._wall()
        asked = (
            ("total_tokens", rules.total, of_all, tokens, NEVER),
            ("daily_tokens", rules.daily, of_day, tokens, midnight),
            ("tpm", rules.tpm, cells[TOKENS], tokens, self._wait(TOKEN_RING, rules.tpm - tokens)),
            ("rpm", rules.rpm, cells[REQUESTS], 1, self._wait(REQUEST_RING, rules.rpm - 1)),
            ("concurrency", rules.concurrency, cells[IN_FLIGHT], 1, FREE_S),
        )
        hit = [
            LimitExceeded(name, limit, used, tokens, NEVER if need > limit else wait)
            for name, limit, used, need, wait in asked
            if limit is not None and used + need > limit
        ]
        full = max(hit, key=lambda one: one.wait_s)
        full.left = (rules.rpm - cells[REQUESTS], rules.tpm - cells[TOKENS])
        full.resets_s = (self._wait(REQUEST_RING, 0), self._wait(TOKEN_RING, 0))
        return full

    def _wait(self, ring: int, room: int) -> float:
        """Return the seconds until a ring's counts fit the given room."""
        cells = self._cells
        counts = cells[ring : ring + RING]
        over = sum(counts) - room
        for second in range(cells[AT] + 1 - RING, cells[AT] + 1):
            if over <= 0:
                return 0.0
            over -= counts[second % RING]
            if over <= 0:
                return max(0.001, second + RING - self._clock())
        return 0.0 if over <= 0 else float(RING)


NO_LIMIT = 1 << 62
NEVER = float("inf")
MOST_TOKENS = 10**12
"""Largest counted number of tokens of one request, as clients may send any number."""
BOTH = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """A key's limits in comparable form.

    Attributes:
        rpm: requests per minute; NO_LIMIT without a limit.
        tpm: tokens per minute; NO_LIMIT without a limit.
        concurrency: requests at once; NO_LIMIT without a limit.
        daily: tokens per day, or None.
        total: tokens in all, or None.
        lines: template of the answer's header lines, with places for the remaining amounts.
        told: the limits with a place in the template: 1 requests, 2 tokens, 3 both.
    """

    rpm: int
    tpm: int
    concurrency: int
    daily: int | None
    total: int | None
    lines: bytes
    told: int

    @classmethod
    def of(cls, limits: KeyLimits) -> Rules:
        """Compile the limits of a key.

        A minute's counts are gone after 61 seconds at the latest. The headers of an admitted
        request name these 61 seconds, since the request itself counts for so long.
        """
        lines = b""
        for name, limit in ((b"requests", limits.rpm), (b"tokens", limits.tpm)):
            if limit is not None:
                lines += b"x-ratelimit-limit-%b: %d\r\n" % (name, limit)
                lines += b"x-ratelimit-remaining-%b: %%d\r\n" % name
                lines += b"x-ratelimit-reset-%b: 1m1s\r\n" % name
        return cls(
            rpm=limits.rpm or NO_LIMIT,
            tpm=limits.tpm or NO_LIMIT,
            concurrency=limits.concurrency or NO_LIMIT,
            daily=limits.daily_tokens,
            total=limits.total_tokens,
            lines=lines,
            told=(limits.rpm is not None) + 2 * (limits.tpm is not None),
        )


class LimitExceeded(Exception):  # noqa: N818 - no fault: a limit does its work
    """A limit that refuses a request.

    Args:
        limit: name of the limit, as in KeyLimits.
        allowed: value of the limit.
        used: present usage counted against the limit.
        tokens: estimated tokens of the request.
        wait_s: seconds until the request may be admitted; infinite if waiting does not help.

    Attributes:
        left: requests and tokens left in the minute.
        resets_s: seconds until the minute's requests, and its tokens, are back to zero.
    """

    def __init__(self, limit: str, allowed: int, used: int, tokens: int, wait_s: float) -> None:
        super().__init__(limit)
        self.limit = limit
        self.allowed = allowed
        self.used = used
        self.tokens = tokens
        self.wait_s = wait_s
        self.left = (0, 0)
        self.resets_s = (0.0, 0.0)


class Settler(Protocol):
    """The account behind a reservation."""

    def settle(self, reservation: Reservation, used: int) -> None:
        """End a request with its used tokens."""


class Reservation(msgspec.Struct, eq=False, gc=False):
    """The reservation of an admitted request, until settlement.

    Attributes:
        account: the key's account; None after the settlement.
        rules: the limits.
        tokens: the reserved estimate.
        second: second of the reservation, on the account's clock.
        day: day of the reservation, in days since 1970.
        requests: requests in the minute, this request included.
        in_minute: tokens in the minute, this request's included.
    """

    account: Settler | None
    rules: Rules
    tokens: int
    second: int
    day: int
    requests: int
    in_minute: int

    @property
    def headers(self) -> bytes:
        """Header lines with the remaining amounts, each with a line end; computed at each use."""
        rules = self.rules
        if rules.told == BOTH:
            return rules.lines % (rules.rpm - self.requests, rules.tpm - self.in_minute)
        if rules.told == 1:
            return rules.lines % (rules.rpm - self.requests)
        if rules.told:
            return rules.lines % (rules.tpm - self.in_minute)
        return b""

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by the used tokens, and end the request; only the first call counts.

        Args:
            tokens: tokens of prompt and answer; None if no replica worked on the request.
        """
        account = self.account
        if account is not None:
            self.account = None
            used = tokens or 0
            # Cells are signed 64-bit numbers, so no report may overflow their sums.
            account.settle(self, min(MOST_TOKENS, used))


class Tally:
    """The usage of a key without limits since the start of this process."""

    __slots__ = ("requests", "seen_requests", "seen_tokens", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.seen_requests = self.seen_tokens = 0

    def news(self) -> tuple[int, int]:
        """Return tokens and requests since the last call, and remember the present counts."""
        tokens, requests = self.tokens - self.seen_tokens, self.requests - self.seen_requests
        self.seen_tokens, self.seen_requests = self.tokens, self.requests
        return tokens, requests


class Unlimited(msgspec.Struct, eq=False, gc=False):
    """A request of a key without limits, counted when it ends."""

    tally: Tally | None
    headers: ClassVar[bytes] = b""
    tokens: ClassVar[int] = 0

    def settle(self, tokens: int | None) -> None:
        """Count the used tokens; only the first call counts."""
        tally = self.tally
        if tally is not None:
            self.tally = None
            tally.requests += 1
            tally.tokens += tokens or 0
