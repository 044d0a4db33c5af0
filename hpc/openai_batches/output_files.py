"""The answers of an OpenAI batch, complete or not, as an output file and an error file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from hpc.batch.folder import DOING, DONE, TODO
from hpc.batch.input import intake
from hpc.batch.ledger import answers, claims, merge
from hpc.surrogates import without_halves

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from hpc.batch.ledger.filesystem import FileSystem
    from hpc.batch.model import BatchSpec

NAMES = {
    "input_tokens": (("prompt_tokens",), ("input_tokens",)),
    "cached_tokens": (
        ("prompt_tokens_details", "cached_tokens"),
        ("input_tokens_details", "cached_tokens"),
    ),
    "output_tokens": (("completion_tokens",), ("output_tokens",)),
    "reasoning_tokens": (
        ("completion_tokens_details", "reasoning_tokens"),
        ("output_tokens_details", "reasoning_tokens"),
    ),
}
"""Token counts, each with its paths in an answer's ``usage``: of chats, and of responses."""


def of(line: bytes) -> dict[str, int]:
    """Return the token counts of an answer; a missing count is 0.

    Args:
        line: a line of the output.
    """
    try:
        said = from_json(line)
    except ValueError:  # a number beyond 64 bits or nesting, which only Python's own reader takes
        said = json.loads(line)
    said = _at(said, "response", "body", "usage")
    return {name: max(_count(_at(said, *path)) for path in paths) for name, paths in NAMES.items()}


def _at(said: Any, *path: str) -> Any:
    for name in path:
        said = said.get(name) if isinstance(said, dict) else None
    return said


def _count(found: Any) -> int:
    whole = isinstance(found, int) and not isinstance(found, bool)
    return max(0, found) if whole else 0


WORDS = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request was not executed, as the batch was cancelled.",
}


@dataclass(slots=True)
class OutputCounts:
    """The counts of written lines.

    Attributes:
        good: answers.
        failed: errors of requests that were sent.
        missing: requests that were never sent.
        used: tokens of the answers.
    """

    good: int = 0
    failed: int = 0
    missing: int = 0
    used: Counter[str] = field(default_factory=Counter)


def split(
    files: FileSystem, folder: Path, spec: BatchSpec, good: BinaryIO, bad: BinaryIO, *, why: str
) -> OutputCounts:
    """Write each request's answer or error, in the order of the input.

    Args:
        files: the file system.
        folder: the batch; no worker may be at work any more.
        spec: the batch's specification.
        good: file for the answers.
        bad: file for the errors.
        why: reason for requests without an outcome: "expired" or "cancelled".

    Raises:
        BatchError: the requests cannot be read.
    """
    # Dead workers left answers under earlier attempts: all attempts of a chunk are read.
    counts, attempts = OutputCounts(), _attempts(files, folder)
    for chunk in range(spec.chunks):
        found = answers.collect(files, folder, chunk, attempts.get(chunk, 0))
        rows = merge.rows_of(spec, chunk)
        lines = intake.requests(folder, chunk) if any(row not in found for row in rows) else []
        for row in rows:
            answer = found.get(row)
            if answer is None:
                bad.write(_never(row, lines[row - rows.start], why))
                counts.missing += 1
            else:
                _write(answer, good, bad, counts)
    return counts


def _write(answer: answers.RowAnswer, good: BinaryIO, bad: BinaryIO, counts: OutputCounts) -> None:
    (good if answer.good else bad).write(answer.line + b"\n")
    counts.good += answer.good
    counts.failed += not answer.good
    if answer.good:
        counts.used.update(of(answer.line))


def _attempts(files: FileSystem, folder: Path) -> dict[int, int]:
    """Return the number of claims of each chunk, whatever the chunk's state."""
    found: dict[int, int] = {}
    for state in (TODO, DOING, DONE):
        for claim in claims.listed(files, folder, state):
            found[claim.chunk] = max(found.get(claim.chunk, 0), claim.attempt + 1)
    return found


def _never(row: int, line: bytes, why: str) -> bytes:
    said = {
        "id": f"batch_req_{row}",
        "custom_id": json.loads(line)["custom_id"],
        "response": None,
        "error": {"code": f"batch_{why}", "message": WORDS[why]},
    }
    return without_halves(json.dumps(said, separators=(",", ":")).encode()) + b"\n"
