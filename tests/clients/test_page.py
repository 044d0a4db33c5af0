"""The page of clients says what the programs do."""

from __future__ import annotations

import re
from pathlib import Path

from tests.clients.catalog import CLIENTS, PROGRAMS

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text(encoding="utf-8")


def test_every_line_of_a_set_up_stands_in_a_program() -> None:
    programs = [path.read_text(encoding="utf-8") for path in sorted(PROGRAMS.iterdir())]
    known = {line.strip() for text in programs for line in text.splitlines()}
    blocks = re.findall(r"^```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = {line.strip() for block in blocks for line in block.splitlines()}

    assert len(blocks) > 15
    assert lines - known == set()


def test_the_table_has_every_client_with_the_pinned_version() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| `[^`]+` \| ([\w.]+) \|", PAGE, re.MULTILINE)

    assert rows == [(client.name, client.version) for client in CLIENTS]


def test_every_program_belongs_to_a_client() -> None:
    assert {path.name for path in PROGRAMS.iterdir() if path.is_file()} == {
        client.program for client in CLIENTS
    }
