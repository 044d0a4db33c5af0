"""The limits of a client key, and their notation on the command line."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
MOST = 10**12
"""Largest value of a limit; sums of several values fit into 64 bits."""


class KeyLimits(BaseModel):
    """The limits of a key; None is no limit.

    Attributes:
        rpm: requests in any 60 seconds.
        tpm: tokens in any 60 seconds, held back at admission and corrected by the reported usage.
        concurrency: requests in flight.
        daily_tokens: tokens per day, in UTC.
        total_tokens: tokens over the key's life.
        max_tokens: all answers of a request together, in tokens.
        max_prompt_tokens: all prompts of a request together, in tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rpm: int | None = Field(default=None, ge=1, le=MOST)
    tpm: int | None = Field(default=None, ge=1, le=MOST)
    concurrency: int | None = Field(default=None, ge=1, le=MOST)
    daily_tokens: int | None = Field(default=None, ge=1, le=MOST)
    total_tokens: int | None = Field(default=None, ge=1, le=MOST)
    max_tokens: int | None = Field(default=None, ge=1, le=MOST)
    max_prompt_tokens: int | None = Field(default=None, ge=1, le=MOST)

    def given(self) -> dict[str, int]:
        """Return the limits that are set, by name."""
        return {name: value for name, value in self if value is not None}

    def or_none(self) -> KeyLimits | None:
        """Return these limits, or None if no limit is set."""
        return self if self.given() else None


def parse_count(text: str) -> int:
    """Return a number such as ``600``, ``20k``, ``1.5M`` or ``2G``, in powers of ten.

    Raises:
        ValueError: the text is not a whole number, or is out of range.
    """
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmg]?)", text.strip(), re.IGNORECASE)
    value = Decimal(found[1]) * _SCALE[found[2].lower()] if found else Decimal(0)
    if value != int(value) or not 1 <= value <= MOST:
        raise ValueError(f"{text!r} is not a number; allowed: 600, 20k, 1.5M, 2G")
    return int(value)


def short(count: int) -> str:
    """Return a number in short form, such as ``20k``, without rounding."""
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= scale and count * 10 % scale == 0:
            whole, tenth = divmod(count * 10 // scale, 10)
            return f"{whole}.{tenth}{unit}" if tenth else f"{whole}{unit}"
    return str(count)


def parse_budget(text: str) -> dict[str, int]:
    """Return token budgets by the name of their limit.

    Args:
        text: such as ``1M/day``, ``20M/total`` or both with a comma; a bare number is a total.

    Raises:
        ValueError: the text is not a budget.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        amount, _, span = part.strip().partition("/")
        name = {"day": "daily_tokens", "total": "total_tokens", "": "total_tokens"}.get(span)
        if name is None or name in found:
            raise ValueError(f"{text!r} is not a budget; allowed: 1M/day, 20M/total, or both")
        found[name] = parse_count(amount)
    return found


def parse_expiry(text: str, now: datetime | None = None) -> datetime:
    """Return the time at which a key expires.

    Args:
        text: ``12h``, ``30d`` or ``4w`` from now, or a date such as ``2027-03-31``, in UTC.
        now: current time; None is the present.

    Raises:
        ValueError: the text is no expiry, or the date lies in the past.
    """
    at = (now or datetime.now(timezone.utc)).replace(microsecond=0)
    span = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text)
    if span:
        return at + int(span[1]) * _UNITS[span[2]]
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an expiry; allowed: 12h, 30d, 4w, or 2027-03-31"
        ) from None
    if day <= at:
        raise ValueError(f"{text} is in the past")
    return day
