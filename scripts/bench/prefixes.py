"""What a replica with a cache of prefixes does with its time, for benchmarks of routing.

Prompts are computed one after the other, only what is not in the cache; answers are decoded in a
batch whose step grows with its size. Blocks of a prompt are known by the hash of all up to their
end, as in vLLM (docs.vllm.ai, design/prefix_caching); the least recently used go.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

LETTERS = 4
"""Characters that stand for a token."""
BLOCK = 16
"""Tokens of a block."""


@dataclass(frozen=True)
class Pace:
    """How fast a replica is.

    Attributes:
        prefill_tokens_s: tokens of a prompt that it computes in a second.
        step_s: for one token of each answer in the batch.
        growth_s: what each further answer adds to that.
        batch: answers at once.
        cache_tokens: room for prefixes.
        faster: by how much all of it goes faster than that.
    """

    prefill_tokens_s: float = 4000.0
    step_s: float = 0.02
    growth_s: float = 0.0005
    batch: int = 64
    cache_tokens: int = 100_000
    faster: float = 1.0

    def prefill_s(self, tokens: int) -> float:
        """Return the seconds that so many tokens of a prompt take."""
        return tokens / self.prefill_tokens_s / self.faster

    def token_s(self, batch: int) -> float:
        """Return the seconds between two tokens of an answer."""
        return (self.step_s + self.growth_s * batch) / self.faster


class Prefixes:
    """The blocks that a replica has computed.

    Args:
        tokens: how much there is room for.
    """

    def __init__(self, tokens: int) -> None:
        self._room = max(1, tokens // BLOCK)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, text: str) -> int:
        """Return how many tokens of a prompt are to be computed, and keep its blocks.

        Args:
            text: all of the prompt.
        """
        known, before, parent = 0, True, 0
        for start in range(0, len(text), BLOCK * LETTERS):
            parent = hash((parent, text[start : start + BLOCK * LETTERS]))
            before = before and parent in self._blocks
            known += before
            self._blocks[parent] = None
            self._blocks.move_to_end(parent)
        while len(self._blocks) > self._room:
            self._blocks.popitem(last=False)
        return max(1, len(text) // LETTERS - known * BLOCK)
