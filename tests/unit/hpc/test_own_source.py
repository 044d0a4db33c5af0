"""Hints to install hpc-serve name the place that this copy came from, never a bare name."""

from __future__ import annotations

import contextlib
import json
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc import own_source

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[3]
SHA = "1e5d3a0c9b7f4e2d8a6c0b1f3e5d7c9a2b4d6f80"
BY_NAME = re.compile(
    r"""(?:\b(?:pip3?|pipx|uv|conda|mamba)\s(?:[^\s`]+\s)*?(?:install|download|run|add)|\buvx)"""
    r"""(?:\s[^\s`]+)*?\s['"]?hpc[-_]serve(?:\[[^\]\n]*\])?(?:[=<>~!][^\s'"]*)?"""
    r"""(?=['"`;,.)]*(?:\s|$))(?!['"]?\s*@)"""
)
PLACES = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml", ".github", "apptainer"),
    *("docs", "examples", "gateway_lite", "hpc", "scripts", "slurm_templates", "tests"),
)


class Installed(metadata.Distribution):
    """A distribution with one file."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def read_text(self, filename: str) -> str | None:
        """Return the file."""
        return self._text if filename == "direct_url.json" else None

    def locate_file(self, path: object) -> Path:
        """Return no place."""
        raise FileNotFoundError(path)


def said(monkeypatch: pytest.MonkeyPatch, note: object) -> None:
    """Let pip's note beside the package be another."""
    text = note if isinstance(note, str) or note is None else json.dumps(note)
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed(text))


@pytest.mark.parametrize(
    ("note", "source", "command"),
    [
        (
            {"url": "file:///home/ada/hpc%20serve", "dir_info": {"editable": True}},
            "/home/ada/hpc serve",
            "python3 -m pip install '/home/ada/hpc serve[plot]'",
        ),
        (
            {"url": "file:///home/ada/hpc_serve-1.0-py3-none-any.whl", "archive_info": {}},
            "/home/ada/hpc_serve-1.0-py3-none-any.whl",
            "python3 -m pip install '/home/ada/hpc_serve-1.0-py3-none-any.whl[plot]'",
        ),
        (
            {"url": "https://git.example/hs.git", "vcs_info": {"vcs": "git", "commit_id": SHA}},
            f"git+https://git.example/hs.git@{SHA}",
            f"python3 -m pip install 'hpc-serve[plot] @ git+https://git.example/hs.git@{SHA}'",
        ),
        (
            {"url": "ssh://git@git.example/hs", "vcs_info": {"vcs": "git", "commit_id": SHA}},
            f"git+ssh://git@git.example/hs@{SHA}",
            f"python3 -m pip install 'hpc-serve[plot] @ git+ssh://git@git.example/hs@{SHA}'",
        ),
        (
            {"url": "https://ada:secret@host.example/hs.whl?token=x#y", "archive_info": {}},
            "https://host.example/hs.whl",
            "python3 -m pip install 'hpc-serve[plot] @ https://host.example/hs.whl'",
        ),
        (None, "CHECKOUT", "python3 -m pip install 'CHECKOUT[plot]'"),
        ("no JSON", "CHECKOUT", "python3 -m pip install 'CHECKOUT[plot]'"),
        ([1], "CHECKOUT", "python3 -m pip install 'CHECKOUT[plot]'"),
        ({}, "CHECKOUT", "python3 -m pip install 'CHECKOUT[plot]'"),
    ],
)
def test_the_hint_names_where_this_copy_came_from(
    monkeypatch: pytest.MonkeyPatch, note: object, source: str, command: str
) -> None:
    said(monkeypatch, note)

    assert own_source.source() == source
    assert own_source.pip_command("plot") == command


def test_a_copy_that_is_not_installed_has_no_known_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert own_source.source() == "CHECKOUT"


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of the project's files, this one aside."""
    for place in PLACES:
        root = PROJECT / place
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if (
                path.is_file()
                and path.name != Path(__file__).name
                and "__pycache__" not in str(path)
            ):
                with contextlib.suppress(UnicodeDecodeError):
                    yield path.name, path.read_text(encoding="utf-8")


def test_no_file_tells_to_install_by_a_name_that_anybody_may_own() -> None:
    wrong = [f"{name}: {one[0]}" for name, text in texts() for one in BY_NAME.finditer(text)]

    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        *("pip install hpc-serve", "pip install --user hpc-serve==1.0", "pipx install hpc-serve"),
        *("python3 -m pip install 'hpc-serve[plot]'", "uv tool install hpc-serve", "uvx hpc-serve"),
        *("pip install -U hpc_serve", "uv pip install hpc-serve", "pip download hpc-serve"),
    ],
)
def test_the_search_finds_such_lines(line: str) -> None:
    assert BY_NAME.search(line)


@pytest.mark.parametrize(
    "line",
    [
        *("pip install '.[gateway]'", "pip install 'hpc-serve[a] @ git+https://x/y'"),
        *("pip install --editable ~/hpc-serve/", "git clone REPOSITORY hpc-serve && cd hpc-serve"),
        "python3 -m venv ~/hpc-serve && . ~/hpc-serve/bin/activate",
    ],
)
def test_the_search_leaves_other_lines_alone(line: str) -> None:
    assert not BY_NAME.search(line)
