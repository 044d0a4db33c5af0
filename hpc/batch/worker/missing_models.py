"""Models that the gateway no longer has, but may have again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

SOONEST_S, LATEST_S = 0.5, 30.0
"""Shortest and longest seconds between two probes of a missing model."""
ENDED = frozenset({"STOPPED", "FAILED"})
"""Phases that end only when a user starts the model again."""


@dataclass(slots=True)
class MissingModels:
    """The missing models of a gateway, and since when; written and read by different threads.

    Attributes:
        clock: returns seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _since: dict[str, float] = field(default_factory=dict)

    def judge(self, model: str, got: httpx.Response, parsed: Any) -> float | None:
        """Return the seconds until the next probe of a missing model; None for a present model.

        Args:
            model: the requested name.
            got: the answer.
            parsed: the answer's JSON.
        """
        if not _is_away(got, parsed):
            self._since.pop(model, None)
            return None
        now = self.clock()
        # A quarter of the absence so far: quick for a restart, rare for a model away for hours.
        since = self._since.setdefault(model, now)
        return min(LATEST_S, max(SOONEST_S, (now - since) / 4))

    def longest(self) -> tuple[str, float] | None:
        """Return the model missing for the longest time and its seconds; None without any."""
        found = list(self._since.items())
        if not found:
            return None
        model, since = min(found, key=lambda one: one[1])
        return model, self.clock() - since


def _is_away(got: httpx.Response, parsed: Any) -> bool:
    """Return whether an answer is the gateway's for a missing model; engines never send such."""
    if got.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return got.headers.get("x-model-phase") in ENDED
    said = parsed.get("error") if isinstance(parsed, dict) else None
    code = said.get("code") if isinstance(said, dict) else None
    return got.status_code == httpx.codes.NOT_FOUND and code == "model_not_found"
