"""Comparison with recorded text, telling what changed and what to do about it."""

from __future__ import annotations

import difflib
from pathlib import Path

FOLDER = Path(__file__).parent


def assert_golden(name: str, text: str) -> None:
    """Compare text with ``tests/golden/NAME``; a missing file is written, and fails once."""
    path = FOLDER / name
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        raise AssertionError(f"{path} was missing and has been written: read it, run again")
    recorded = path.read_text(encoding="utf-8")
    changed = difflib.unified_diff(
        recorded.splitlines(), text.splitlines(), "recorded", "now", lineterm=""
    )
    assert text == recorded, "\n".join([*changed, f"if this is meant, delete {path} and run again"])
