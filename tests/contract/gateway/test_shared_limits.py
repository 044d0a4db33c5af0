"""Limits stay exact where several processes count one key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway_lite.auth.usage_store import NUMBERS, Shared, UsageStore
from gateway_lite.shared_memory import make

if TYPE_CHECKING:
    from collections.abc import Iterator

HAMMER = Path(__file__).with_name("hammer.py")
ROOT = Path(__file__).parents[3]
WORKERS = 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "counts"
    with path.open("wb") as made:
        make(made.fileno(), NUMBERS)
    return path


class Crew:
    """Processes that begin at the same time."""

    def __init__(self, file: Path, *, rpm: int = 0, tpm: int = 0, concurrency: int = 0) -> None:
        argv = [sys.executable, str(HAMMER), str(file)]
        self.members = [
            subprocess.Popen(
                [*argv, *map(str, (worker, rpm, tpm, concurrency))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for worker in range(WORKERS)
        ]

    def say(self) -> None:
        for member in self.members:
            assert member.stdin is not None
            member.stdin.write("go\n")
            member.stdin.flush()

    def heard(self) -> list[str]:
        return [member.stdout.readline().strip() for member in self.members if member.stdout]

    def admitted(self) -> list[int]:
        assert self.heard() == ["ready"] * WORKERS
        self.say()
        return [json.loads(line) for line in self.heard()]

    def end(self) -> None:
        for member in self.members:
            member.kill()
            member.communicate()


@pytest.fixture
def crews() -> Iterator[list[Crew]]:
    made: list[Crew] = []
    yield made
    for group in made:
        group.end()


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({"rpm": 3001}, 3001),
        ({"tpm": 21_004}, 3000),
        ({"concurrency": 1234}, 1234),
        ({"rpm": 2500, "tpm": 14_000, "concurrency": 2001}, 2000),
    ],
)
def test_processes_together_get_what_one_would(
    file: Path, crews: list[Crew], limits: dict[str, int], allowed: int
) -> None:
    crews.append(Crew(file, **limits))
    admitted = crews[0].admitted()

    assert sum(admitted) == allowed


def test_a_killed_process_holds_neither_the_lock_nor_its_places(
    file: Path, crews: list[Crew]
) -> None:
    crews.append(Crew(file, concurrency=100))
    first = crews[0]
    assert first.heard() == ["ready"] * WORKERS
    first.say()
    first.members[0].send_signal(signal.SIGKILL)  # where it is in its work is a matter of luck
    lines = [line for line in first.heard() if line]
    assert len(lines) >= WORKERS - 1
    first.end()
    for worker in range(WORKERS):
        store = Shared(str(file), worker)
        UsageStore(store).repair()
        store.close()
    crews.append(Crew(file, concurrency=100))

    assert sum(crews[1].admitted()) == 100
