"""The result of a limit check: a reservation for a request, or the refusing limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from hpc.keys.limits import KeyLimits

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


class Full(Exception):  # noqa: N818 - no fault: a limit does its work
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

    def settle(self, grant: Grant, used: int) -> None:
        """End a request with its used tokens."""


class Grant(msgspec.Struct, eq=False, gc=False):
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


class Free(msgspec.Struct, eq=False, gc=False):
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
