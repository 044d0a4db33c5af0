"""Rate limits and budgets of keys.

A request is admitted with an estimate of its tokens, and settled by its real usage.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.auth import token_ceilings
from gateway_lite.auth.usage_counters import (
    MOST_TOKENS,
    NEVER,
    LimitExceeded,
    Reservation,
    Rules,
    Tally,
    Unlimited,
)
from gateway_lite.auth.usage_store import UsageStore
from gateway_lite.errors import ApiError
from hpc.errors import GatewayError, HpcServeError
from hpc.keys import usage as record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gateway_lite.auth.usage_counters import UsageWindow
    from hpc.keys.limits import KeyLimits
    from hpc.keys.store import ClientKey
    from hpc.keys.usage import Use

log = logging.getLogger(__name__)
SAVE_S = 2.0
"""Seconds between two records of usage on disk: the most that a crash loses."""
AWAY_S = 10.0
"""Seconds between two reads of the usage at gateways of other machines."""
PATIENCE_S = 2.0
LIMITED = 429
ASKED = {
    "rpm": ("requests", "requests per minute"),
    "tpm": ("tokens", "tokens per minute"),
    "concurrency": ("requests", "requests at once"),
}
SPANS = {"daily_tokens": "per day", "total_tokens": "in all"}
NO_RETRY = (b"x-should-retry", b"false")


class Limits:
    """The limits of all keys.

    ``reserve``, ``tick`` and ``use`` run in the event loop and never wait for a disk; ``sync`` runs
    in the watching thread.

    Args:
        ledger: the usage store.
        root: the state directory, where this process records usage; None if another process does.
        hostname: name of this machine.
    """

    def __init__(
        self, ledger: UsageStore | None = None, *, root: Path | None = None, hostname: str = ""
    ) -> None:
        self._ledger = ledger or UsageStore()
        self._root = root
        self._hostname = hostname
        self._known: dict[str, tuple[KeyLimits, Rules, UsageWindow]] = {}
        self._counters: dict[str, Tally] = {}
        self._away: dict[str, Use] | None = None
        self._used: dict[str, Use] = {}
        self._saved: dict[str, Use] = {}
        self._next_save = self._next_away = 0.0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Continue from the record of an earlier gateway; called before the first request.

        Raises:
            StateError: a record exists and cannot be read.
        """
        if self._root is not None:
            self._saved = record.load(record.path(self._root, self._hostname))
            self._ledger.begin(self._saved)
            self._ledger.elsewhere(record.load_all(self._root, but=self._hostname))
            self._next_away = time.monotonic() + AWAY_S

    def reserve(self, key: ClientKey | None, tokens: int) -> Reservation | Unlimited:
        """Admit a request.

        Args:
            key: the client's key; None for anonymous access, which has no limits.
            tokens: estimate for prompt and answer together.

        Raises:
            ApiError: 429; with the time of a useful retry, if a retry can help.
        """
        if key is None:
            return Unlimited(Tally())
        limits = key.limits
        if limits is None:
            tally = self._counters.get(key.id)
            if tally is None:
                tally = self._counters[key.id] = Tally()
            return Unlimited(tally)
        known = self._known.get(key.id)
        # The keys file is parsed into new objects when it changes, so identity shows new limits.
        if known is None or known[0] is not limits:
            known = self._learn(key.id, limits)
        try:
            return known[2].reserve(known[1], min(MOST_TOKENS, tokens))
        except LimitExceeded as full:
            raise refusal(full, limits) from None

    def room(self, key: ClientKey) -> int | None:
        """Return the most tokens that one request may take now; None without limits of tokens.

        Args:
            key: the client's key.

        Raises:
            ApiError: 503; the key's requests cannot be counted.
        """
        limits = key.limits
        if limits is None or not token_ceilings.counts(limits):
            return None
        known = self._known.get(key.id)
        if known is None or known[0] is not limits:
            known = self._learn(key.id, limits)
        return known[2].room(known[1])

    def check(self, key: ClientKey) -> None:
        """Refuse a request by its head if the key's requests per minute are used up.

        Nothing is counted: ``reserve`` does so once the body is known, or ``refused``.

        Raises:
            ApiError: 429, with the time of a useful retry.
        """
        limits = key.limits
        if limits is None or limits.rpm is None:
            return
        known = self._known.get(key.id)
        if known is None or known[0] is not limits:
            known = self._learn(key.id, limits)
        try:
            known[2].check(known[1])
        except LimitExceeded as full:
            raise refusal(full, limits) from None

    def refused(self, key: ClientKey) -> None:
        """Count a request that was refused by its content: it cost work, and no tokens."""
        known = self._known.get(key.id)
        if known is not None and known[0] is key.limits and known[0].rpm is not None:
            known[2].count()

    def use(self) -> dict[str, Use]:
        """Return the usage of each key at this gateway, by key id.

        Daily counts are zero for keys without a request today.
        """
        self._flush()
        return self._ledger.use()

    def tick(self, now: float | None = None) -> None:
        """Exchange data with the watching thread; called about once a second.

        Usage of other machines that the thread read is applied, and a snapshot for its next record
        made.

        Args:
            now: seconds of the monotonic clock; None means the present.
        """
        at = time.monotonic() if now is None else now
        # The thread hands over a complete dict in one attribute: the loop never waits for its lock.
        away, self._away = self._away, None
        try:
            if away is not None:
                self._ledger.elsewhere(away)
            if at >= self._next_save:
                self._next_save = at + SAVE_S
                self._used = self.use()
        except GatewayError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence, no fault of ours

    def sync(self) -> None:
        """Write changed usage to disk, and read the usage at other machines.

        Raises:
            StateError: the record cannot be written.
        """
        if self._root is None:
            return
        with self._lock:
            used = self._used
            if used and used != self._saved:
                record.save(record.path(self._root, self._hostname), used)
                self._saved = used
        if time.monotonic() >= self._next_away:
            self._next_away = time.monotonic() + AWAY_S
            self._away = record.load_all(self._root, but=self._hostname)

    def close(self) -> None:
        """Write the final usage; give up after PATIENCE_S if the file system hangs."""
        try:
            self._used = self.use()
        except GatewayError as error:
            log.error("%s", error)  # noqa: TRY400
        self._next_away = NEVER
        # A write to a dead NFS server blocks for ever; a daemon thread lets the process end anyway.
        last = threading.Thread(target=self._last, name="last record", daemon=True)
        last.start()
        last.join(PATIENCE_S)

    def _last(self) -> None:
        try:
            self.sync()
        except HpcServeError as error:
            log.error("%s", error)  # noqa: TRY400

    def _learn(self, name: str, limits: KeyLimits) -> tuple[KeyLimits, Rules, UsageWindow]:
        try:
            known = (limits, Rules.of(limits), self._ledger.account(name))
        except GatewayError as error:
            log.error("%s", error)  # noqa: TRY400
            raise no_room() from error
        self._known[name] = known
        return known

    def _flush(self) -> None:
        """Add the usage of keys without limits to the usage store."""
        # Keys without limits are counted in plain integers first: no lock per request.
        news = {name: tally.news() for name, tally in self._counters.items()}
        self._ledger.add({name: counts for name, counts in news.items() if any(counts)})


def refusal(full: LimitExceeded, limits: KeyLimits) -> ApiError:
    """Return the 429 answer for a limit, with the limit's name."""
    error = _refusal(full, limits)
    error.limit = full.limit
    return error


def _refusal(full: LimitExceeded, limits: KeyLimits) -> ApiError:
    """Return the 429 answer for a limit, in OpenAI's wording.

    Source: https://platform.openai.com/docs/guides/rate-limits and .../guides/error-codes
    """
    headers = (*_told(full, limits), *_again(full.wait_s))
    if full.limit in SPANS:
        return ApiError(
            LIMITED,
            f"the budget of {full.allowed} tokens {SPANS[full.limit]} does not cover this request:"
            f" {full.used} used, {full.tokens} asked for",
            code="insufficient_quota",
            kind="insufficient_quota",
            headers=(*headers, NO_RETRY),
        )
    kind, words = ASKED[full.limit]
    asked = full.tokens if full.limit == "tpm" else 1
    if full.wait_s == NEVER:
        headers, advice = (*headers, NO_RETRY), "this request alone is too large"
    else:
        advice = f"try again in {duration(full.wait_s)}"
    return ApiError(
        LIMITED,
        f"this key's limit of {full.allowed} {words} is reached: {full.used} used,"
        f" {asked} asked for; {advice}",
        code="rate_limit_exceeded",
        kind=kind,
        headers=headers,
    )


def no_room() -> ApiError:
    """Return the 503 answer for a key that cannot be counted."""
    return ApiError(
        503,
        "the gateway cannot count this key's requests; its log says why",
        code="limits_unavailable",
        kind=errors.SERVER,
        headers=errors.retry_after(60),
    )


def duration(seconds: float) -> str:
    """Return a time as Go writes it (``12ms``, ``1.5s``, ``1m1s``), rounded up to milliseconds."""
    # Rounded to 1 us first: 0.07 * 1000 is 70.00000000000001 and must stay 70 ms.
    # Rounded to 1 us first: 60.07 - 60 is 0.07000000000000028 and must stay 70 ms, not 71.
    # Rounded to 1 us first: 60.07 - 60 is 0.07000000000000028 and must stay 70 ms, not 71.
    total = math.ceil(round(seconds * 1000, 3))
    if total < 1000:
        return f"{total}ms" if total else "0s"
    minutes, ms = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{ms / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + rest


def _told(full: LimitExceeded, limits: KeyLimits) -> Iterable[tuple[bytes, bytes]]:
    """Yield the headers with the limits, the remaining amounts, and the seconds to a full reset."""
    pairs = (("requests", limits.rpm), ("tokens", limits.tpm))
    for (name, limit), left, resets_s in zip(pairs, full.left, full.resets_s, strict=True):
        if limit is not None:
            yield f"x-ratelimit-limit-{name}".encode(), str(limit).encode()
            yield f"x-ratelimit-remaining-{name}".encode(), str(max(0, left)).encode()
            yield f"x-ratelimit-reset-{name}".encode(), duration(resets_s).encode()


def _again(wait_s: float) -> tuple[tuple[bytes, bytes], ...]:
    if wait_s == NEVER:
        return ()
    return (
        (b"retry-after", str(math.ceil(wait_s)).encode()),
        (b"retry-after-ms", str(math.ceil(wait_s * 1000)).encode()),
    )
