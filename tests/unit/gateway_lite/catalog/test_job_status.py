"""When the scheduler is asked, and what its answers change."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from gateway_lite.catalog.job_status import JobStatuses
from hpc.model import JobHandle, JobState, JobStatus
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ONE, TWO = JobHandle("1", "slurm", "/j"), JobHandle("2", "slurm", "/j")
K1, K2 = ONE.key, TWO.key
PENDING = JobStatus(JobState.PENDING, reason="Priority", nodes=("n1",), start_at=5.0)
GONE = JobStatus(JobState.GONE)
UNKNOWN = JobStatus(JobState.UNKNOWN, reason="Slurm did not answer: squeue")


class Asked:
    """A scheduler whose answers the test decides on."""

    def __init__(self) -> None:
        self.answers: dict[str, JobStatus] = {}
        self.calls: list[list[str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.breaks = False

    def __call__(self, jobs: Sequence[JobHandle]) -> dict[str, JobStatus]:
        self.calls.append([job.job_id for job in jobs])
        assert self.may_answer.wait(PATIENCE_S)
        if self.breaks:
            raise OSError("no more processes")
        return {job.key: self.answers.get(job.key, UNKNOWN) for job in jobs}


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def made(asked: Asked) -> Iterator[Callable[..., JobStatuses]]:
    every: list[JobStatuses] = []

    def make(every_s: float = 0.01, file: Path | None = None, *, asks: bool = True) -> JobStatuses:
        every.append(JobStatuses(file, asks=asks, ask=asked, every_s=every_s))
        return every[-1]

    yield make
    for scheduler in every:
        scheduler.close()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_asked_where_every_replica_speaks(
    asked: Asked, made: Callable[..., JobStatuses]
) -> None:
    scheduler = made()
    for _ in range(3):
        assert scheduler.look([]) == {}
    time.sleep(0.05)
    assert asked.calls == []
    assert not any(thread.name == "scheduler" for thread in threading.enumerate())


def test_one_question_for_all_and_nobody_waits_for_it(
    asked: Asked, made: Callable[..., JobStatuses]
) -> None:
    asked.answers = {K1: PENDING, K2: GONE}
    asked.may_answer.clear()
    scheduler = made(every_s=60)
    assert scheduler.look([ONE, TWO]) == {}  # while nobody may answer
    until(lambda: asked.calls)
    asked.may_answer.set()
    until(lambda: scheduler.look([ONE, TWO]) == {K1: PENDING, K2: GONE})
    for _ in range(20):
        scheduler.look([ONE, TWO])
    time.sleep(0.1)
    assert asked.calls == [["1", "2"]]


def test_what_is_over_is_asked_for_no_more(asked: Asked, made: Callable[..., JobStatuses]) -> None:
    asked.answers = {K1: PENDING, K2: GONE}
    scheduler = made()
    until(lambda: len(scheduler.look([ONE, TWO])) == 2)
    until(lambda: scheduler.look([ONE, TWO]) and ["1"] in asked.calls)
    asked.answers[K1] = GONE
    until(lambda: scheduler.look([ONE, TWO])[K1] is GONE)
    calls = len(asked.calls)
    for _ in range(20):
        scheduler.look([ONE, TWO])
        time.sleep(0.01)
    assert len(asked.calls) <= calls + 1  # which may have been under way


def test_no_answer_changes_nothing_and_is_told_once(
    asked: Asked, made: Callable[..., JobStatuses], caplog: pytest.LogCaptureFixture
) -> None:
    asked.answers = {K1: PENDING}
    scheduler = made()
    until(lambda: scheduler.look([ONE]) == {K1: PENDING})
    asked.answers = {}
    calls = len(asked.calls)
    until(lambda: scheduler.look([ONE]) and len(asked.calls) > calls + 2)
    assert scheduler.look([ONE]) == {K1: PENDING}
    assert [r.message for r in caplog.records] == ["Slurm did not answer: squeue"]
    asked.answers = {K1: GONE}
    until(lambda: scheduler.look([ONE]) == {K1: GONE})
    until(lambda: len(caplog.records) == 2)
    assert caplog.records[1].message == "the scheduler answers again"


def test_what_is_of_no_interest_is_forgotten_and_asked_again(
    asked: Asked, made: Callable[..., JobStatuses]
) -> None:
    asked.answers = {K1: GONE}
    scheduler = made()
    until(lambda: scheduler.look([ONE]) == {K1: GONE})
    assert scheduler.look([]) == {}
    asked.answers = {K1: PENDING}
    until(lambda: scheduler.look([ONE]) == {K1: PENDING})


def test_a_question_that_breaks_is_not_the_last(
    asked: Asked, made: Callable[..., JobStatuses]
) -> None:
    asked.breaks = True
    scheduler = made()
    until(lambda: scheduler.look([ONE]) == {} and len(asked.calls) > 1)
    asked.breaks = False
    asked.answers = {K1: PENDING}
    until(lambda: scheduler.look([ONE]) == {K1: PENDING})


def test_workers_share_what_the_first_one_knows(
    asked: Asked, made: Callable[..., JobStatuses], tmp_path: Path
) -> None:
    file = tmp_path / "jobs.json"
    asked.answers = {K1: PENDING, K2: GONE}
    first, other = made(file=file), made(file=file, asks=False)
    assert other.look([ONE]) == {}
    until(lambda: len(first.look([ONE, TWO])) == 2)
    until(lambda: other.look([ONE, TWO]) == {K1: PENDING, K2: GONE})
    assert other.look([]) == {}
    file.write_text("{")
    assert other.look([ONE])[K1] == PENDING
    file.write_text('{"1": {"state": "PENDING", "more": 1}, "2": 3}')
    assert other.look([ONE])[K1] == PENDING


def test_a_file_that_cannot_be_written_is_no_loss_to_the_first(
    asked: Asked,
    made: Callable[..., JobStatuses],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "not").write_text("a folder")
    asked.answers = {K1: PENDING}
    scheduler = made(file=tmp_path / "not" / "jobs.json")
    until(lambda: scheduler.look([ONE]) == {K1: PENDING} and len(asked.calls) > 3)
    assert len(caplog.records) == 1
