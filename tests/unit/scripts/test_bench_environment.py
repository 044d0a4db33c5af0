"""The programs that measure, started as docs print them, find the project's environment."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from scripts.bench import environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that this process would have become."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, argv: found.append(argv))
    monkeypatch.setattr(sys, "argv", ["scripts/bench_x", "--rounds", "1"])
    return found


def test_a_program_outside_goes_inside(
    entered: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    monkeypatch.setenv("HPC_SERVE_VENV", str(tmp_path))
    environment.enter()
    assert entered == [[f"{tmp_path}/bin/python", "scripts/bench_x", "--rounds", "1"]]


def test_a_program_in_an_environment_stays(
    entered: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", f"{sys.base_prefix}/of-its-own")
    environment.enter()
    assert entered == []


def test_without_an_environment_it_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setenv("HPC_SERVE_VENV", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"there is no virtual environment .*: scripts/setup dev"):
        environment.enter()
