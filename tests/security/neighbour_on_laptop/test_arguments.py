"""Another user of a client's machine, who sees the arguments of its programs in ``ps``."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.contract.gateway.programs import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "hs-the-key-of-a-client"
QUESTION = 'my "secret" \\ question'
FAKE = """#!/bin/sh
printf '%s\\n' "$@" >"$SEEN/arguments"
cat >"$SEEN/input"
cat /dev/fd/3 >"$SEEN/body"
"""
PAGES = ("README.md", "docs", "examples", "hpc", "gateway_lite", "scripts", "CONTRIBUTING.md")
# From the program's name to the end of its command, continued lines included.
CURL = re.compile(r"\b(?:curl|wget|http|xh)\s(?:[^|\n\\]|\\.|\\\n)*", re.DOTALL)
SECRET = re.compile(r"Bearer |API_KEY|\bKEY\b|hs-[A-Za-z0-9]|-u |--user\b|--oauth2-bearer")


@pytest.mark.parametrize("by_argument", [False, True])
def test_the_example_keeps_key_and_prompt_out_of_curls_arguments(
    tmp_path: Path, *, by_argument: bool
) -> None:
    fake = tmp_path / "curl"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(tmp_path)}
    env |= {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": KEY}
    argv = ["sh", str(REPO / "examples" / "curl.sh"), "demo"]
    more = [QUESTION] if by_argument else []
    subprocess.run([*argv, *more], env=env, input=QUESTION, text=True, check=True)
    arguments = (tmp_path / "arguments").read_text()

    assert KEY not in arguments
    assert "secret" not in arguments
    assert KEY in (tmp_path / "input").read_text()
    assert '"content": "my \\"secret\\" \\\\ question"' in (tmp_path / "body").read_text()


def commands() -> Iterator[tuple[str, str]]:
    """Yield file and text of each command of a client in docs, examples and code."""
    for place in PAGES:
        root = REPO / place
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.suffix in {".md", ".sh", ".py", ".html", ".ipynb", ""} and path.is_file():
                for found in CURL.finditer(path.read_text(encoding="utf-8", errors="replace")):
                    yield path.name, found[0]


def test_no_command_that_we_show_has_a_key_among_its_arguments() -> None:
    found = list(commands())

    assert len(found) > 5
    assert [(name, text) for name, text in found if SECRET.search(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        'curl -H "Authorization: Bearer $KEY" http://x',
        'curl http://x \\\n  -d {} -H "Authorization: Bearer hs-1"',
        "curl -u me:hs-1234 http://x",
    ],
)
def test_the_search_finds_such_commands(text: str) -> None:
    assert any(SECRET.search(found[0]) for found in CURL.finditer(text))
