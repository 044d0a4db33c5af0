"""What a key's limits say of one request: admitted with an estimate, or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from hpc.quota import KeyLimits

NO_LIMIT = 1 << 62
NEVER = float("inf")
MOST_TOKENS = 10**12
"""Tokens of one request beyond which we do not count: clients write what they like."""
BOTH = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """A key's limits, ready to be compared with.

    Attributes:
        lines: header lines of an answer, with places for what is left.
        told: what those places hold: 1 requests, 2 tokens, 3 both.
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

        A window is as new after 61 seconds at the latest, which is what the headers of an admitted
        request say: it has just begun the last of them.
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
    """A limit that does not admit a request.

    Args:
        limit: its name, as in KeyLimits.
        allowed: its value.
        used: what counts against it now.
        tokens: estimate of the request.
        wait_s: seconds until it may be admitted; infinite where waiting does not help.

    Attributes:
        left: requests and tokens that are left of the minute.
        resets_s: seconds until the minute of requests and that of tokens are as new.
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
    """Takes back what a grant gave."""

    def settle(self, grant: Grant, used: int) -> None:
        """End a request with what it used."""


class Grant(msgspec.Struct, eq=False, gc=False):
    """A request that was admitted, until it is settled.

    Attributes:
        account: where it is counted; None once it is settled.
        rules: the limits.
        tokens: the estimate that is reserved for it.
        second: of the estimate, on the account's clock.
        day: of the estimate, in days since 1970.
        requests: those of its minute, itself included.
        in_minute: tokens of its minute, its own included.
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
        """Header lines that say what is left, each with its end of line; worked out each time."""
        rules = self.rules
        if rules.told == BOTH:
            return rules.lines % (rules.rpm - self.requests, rules.tpm - self.in_minute)
        if rules.told == 1:
            return rules.lines % (rules.rpm - self.requests)
        if rules.told:
            return rules.lines % (rules.tpm - self.in_minute)
        return b""

    def settle(self, tokens: int | None) -> None:
        """Replace the estimate by what was used, and end the request; only the first call counts.

        Args:
            tokens: those of prompt and answer; None where no replica worked on it.
        """
        account = self.account
        if account is not None:
            self.account = None
            used = tokens or 0
            account.settle(self, min(MOST_TOKENS, used))


class Tally:
    """What a key without limits has used since this process began."""

    __slots__ = ("requests", "seen_requests", "seen_tokens", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.seen_requests = self.seen_tokens = 0

    def news(self) -> tuple[int, int]:
        """Return tokens and requests since the last call."""
        tokens, requests = self.tokens - self.seen_tokens, self.requests - self.seen_requests
        self.seen_tokens, self.seen_requests = self.tokens, self.requests
        return tokens, requests


class Free(msgspec.Struct, eq=False, gc=False):
    """A request of a key without limits, counted when it ends."""

    tally: Tally | None
    headers: ClassVar[bytes] = b""
    tokens: ClassVar[int] = 0

    def settle(self, tokens: int | None) -> None:
        """Count what was used; only the first call counts."""
        tally = self.tally
        if tally is not None:
            self.tally = None
            tally.requests += 1
            tally.tokens += tokens or 0
