"""Token counts of a batch's answers, read while the output files are written."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

NAMES = {
    "input_tokens": ("prompt_tokens",),
    "cached_tokens": ("prompt_tokens_details", "cached_tokens"),
    "output_tokens": ("completion_tokens",),
    "reasoning_tokens": ("completion_tokens_details", "reasoning_tokens"),
}
"""Token counts, each with its path in an answer's ``usage``."""


def of(line: bytes) -> dict[str, int]:
    """Return the token counts of an answer; a missing count is 0.

    Args:
        line: a line of the output.
    """
    said = _at(from_json(line), "response", "body", "usage")
    return {name: _count(_at(said, *path)) for name, path in NAMES.items()}


def _at(said: Any, *path: str) -> Any:
    for name in path:
        said = said.get(name) if isinstance(said, dict) else None
    return said


def _count(found: Any) -> int:
    whole = isinstance(found, int) and not isinstance(found, bool)
    return max(0, found) if whole else 0
