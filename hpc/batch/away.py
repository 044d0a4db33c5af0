"""Models that a gateway does not have any more, which may come back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

SOONEST_S, LATEST_S = 0.5, 30.0
"""Seconds between two questions whether a model is back, which grow while it is away."""
ENDED = frozenset({"STOPPED", "FAILED"})
"""Phases that no job of the model's own ends: somebody has to start it again."""


@dataclass(slots=True)
class Away:
    """Which models are away, and for how long; read by another thread than the one that writes.

    Attributes:
        clock: seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _since: dict[str, float] = field(default_factory=dict)

    def judge(self, model: str, got: httpx.Response, parsed: Any) -> float | None:
        """Return after how many seconds to ask for a model again; None where it is not away.

        Args:
            model: what was asked for.
            got: the answer.
            parsed: its JSON.
        """
        if not _is_away(got, parsed):
            self._since.pop(model, None)
            return None
        now = self.clock()
        since = self._since.setdefault(model, now)
        return min(LATEST_S, max(SOONEST_S, (now - since) / 4))

    def longest(self) -> tuple[str, float] | None:
        """Return the model that is away for longest, and for how many seconds; None is none."""
        found = list(self._since.items())
        if not found:
            return None
        model, since = min(found, key=lambda one: one[1])
        return model, self.clock() - since


def _is_away(got: httpx.Response, parsed: Any) -> bool:
    """Tell by the words of our gateway; an engine of the batch's own never says them."""
    if got.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return got.headers.get("x-model-phase") in ENDED
    said = parsed.get("error") if isinstance(parsed, dict) else None
    code = said.get("code") if isinstance(said, dict) else None
    return got.status_code == httpx.codes.NOT_FOUND and code == "model_not_found"
