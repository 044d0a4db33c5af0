"""What the answers of a batch say they cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Spent:
    """Tokens, summed over answers; one that reports none adds none.

    Attributes:
        prompt: tokens of the prompts, ``cached`` of which were in an engine's cache.
        completion: tokens of the answers, ``reasoning`` of which were thoughts.
        models: names by which the answers call their models.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    models: set[str] = field(default_factory=set)

    def add(self, line: bytes) -> None:
        """Add an answer.

        Args:
            line: as it stands in the output.
        """
        body = json.loads(line)["response"]["body"]
        if not isinstance(body, dict):
            return
        if isinstance(body.get("model"), str):
            self.models.add(body["model"])
        usage = body.get("usage")
        self.prompt += _count(usage, "prompt_tokens")
        self.completion += _count(usage, "completion_tokens")
        if isinstance(usage, dict):
            self.cached += _count(usage.get("prompt_tokens_details"), "cached_tokens")
            self.reasoning += _count(usage.get("completion_tokens_details"), "reasoning_tokens")

    @property
    def model(self) -> str | None:
        """The model, where all answers are of one."""
        return min(self.models) if len(self.models) == 1 else None

    def told(self) -> dict[str, int] | None:
        """Return the sums by name; None where no answer reported any."""
        if not self.prompt and not self.completion:
            return None
        names = ("prompt", "cached", "completion", "reasoning")
        return {name: getattr(self, name) for name in names}


def _count(of: Any, name: str) -> int:
    found = of.get(name) if isinstance(of, dict) else None
    return found if type(found) is int and found > 0 else 0
