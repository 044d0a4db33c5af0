"""Claims, answers and merge through crashes at any point, on a file system that tears and lags."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc.batch.folder import TODO, BatchFolder
from hpc.batch.ledger import answers, claims, merge
from hpc.batch.ledger.answers import RowAnswer
from hpc.batch.model import BatchSpec
from hpc.errors import BatchError

FOLDER = Path("/batch")


class Crash(Exception):  # noqa: N818 - it plays a SIGKILL
    """The process is gone."""


@dataclass
class Disk:
    """Files that survive every crash; the faults are told to it one operation ahead.

    ``before`` and ``after`` end the process on either side of an operation, ``torn`` within an
    append or before a rename, ``full`` writes a part and says so, ``stale`` lists what was there
    a while ago, ``old`` reads what was there.
    """

    files: dict[Path, bytes] = field(default_factory=dict)
    past: list[list[tuple[str, str]]] = field(default_factory=list)
    faults: list[tuple[str, int]] = field(default_factory=list)

    def fault(self) -> tuple[str, int]:
        return self.faults.pop(0) if self.faults else ("", 0)

    def names(self, folder: Path) -> list[str]:
        kind, number = self.fault()
        now = sorted((str(path.parent), path.name) for path in self.files)
        self.past = [*self.past[-5:], now]
        seen = self.past[-1 - number % len(self.past)] if kind == "stale" else now
        return [name for parent, name in seen if parent == str(folder)]

    def move(self, old: Path, new: Path) -> bool:
        kind, _ = self.fault()
        if kind in {"before", "torn"}:
            raise Crash
        done = old in self.files
        if done:
            self.files[new] = self.files.pop(old)
        if kind == "after":
            raise Crash
        return done or new in self.files

    def append(self, path: Path, data: bytes) -> None:
        kind, number = self.fault()
        if kind == "before":
            raise Crash
        whole = data if kind not in {"torn", "full"} else data[: number % (len(data) + 1)]
        self.files[path] = self.files.get(path, b"") + whole
        if kind in {"torn", "after"}:
            raise Crash
        if kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")

    def read(self, path: Path) -> bytes:
        kind, number = self.fault()
        data = self.files.get(path, b"")
        return data[: number % (len(data) + 1)] if kind == "old" else data


@dataclass
class Worker:
    """What a worker does with the disk, a step at a time."""

    name: str
    disk: Disk
    spec: BatchSpec
    mine: claims.Claim | None = None
    rows: list[int] = field(default_factory=list)

    def step(self, gone: set[str]) -> None:
        if self.mine is None:
            self.mine = claims.take(self.disk, FOLDER, self.name, gone)
            if self.mine is not None:
                have = answers.collect(self.disk, FOLDER, self.mine.chunk, self.mine.attempt)
                self.rows = [r for r in merge.rows_of(self.spec, self.mine.chunk) if r not in have]
        elif self.rows:
            self.answer(self.mine)
        else:
            mine, self.mine = self.mine, None
            claims.finish(self.disk, FOLDER, mine)

    def answer(self, mine: claims.Claim) -> None:
        """Append two answers; what was not made durable is appended again."""
        group = self.rows[:2]
        path = BatchFolder(FOLDER).answers(mine.chunk, mine.attempt)
        try:
            answers.append(self.disk, path, [right(self.name, row) for row in group])
        except OSError:
            return
        self.rows = self.rows[2:]


def right(worker: str, row: int) -> RowAnswer:
    line = json.dumps({"custom_id": f"r{row}", "by": worker}).encode()
    return RowAnswer(row, row % 7 != 3, line)


def fresh(rows: int, chunk_rows: int, output: Path) -> tuple[Disk, BatchSpec]:
    count = -(-rows // chunk_rows)
    spec = BatchSpec("b", "in", str(output), None, rows, chunk_rows, count)
    todo = FOLDER / TODO
    return Disk({todo / claims.Claim(n, 0).name: b"" for n in range(count)}), spec


FAULTS = st.tuples(
    st.sampled_from(["", "", "", "before", "after", "torn", "full", "stale", "old"]),
    st.integers(0, 200),
)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.lists(FAULTS, max_size=3)), max_size=80
)


def drive(
    disk: Disk, spec: BatchSpec, steps: list[tuple[int, bool, list[tuple[str, int]]]]
) -> None:
    """Let three workers take steps; one that crashes comes back under another name.

    Sometimes all others are taken for gone although they live and go on.
    """
    team = [Worker(f"w{n}", disk, spec) for n in range(3)]
    gone: set[str] = set()
    for count, (number, split, faults) in enumerate(steps):
        disk.faults = list(faults)
        worker = team[number]
        others = {one.name for one in team if one is not worker} if split else set()
        try:
            worker.step(gone | others)
        except Crash:
            gone.add(worker.name)
            team[number] = Worker(f"w{number}-{count}", disk, spec)
    disk.faults = []
    gone |= {one.name for one in team}
    last = Worker("last", disk, spec)
    for _ in range(40 * (spec.rows + spec.chunks) + 40):
        last.step(gone)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 23), st.integers(1, 6), STEPS)
def test_each_request_is_answered_once_whatever_was_killed(
    tmp_path: Path, rows: int, chunk_rows: int, steps: list[tuple[int, bool, list[tuple[str, int]]]]
) -> None:
    disk, spec = fresh(rows, chunk_rows, tmp_path / "out.jsonl")
    drive(disk, spec, steps)
    for done in list(merge.incomplete(disk, FOLDER, spec)):
        pytest.fail(f"{done} is called done and lacks answers")
    merged = merge.merge(disk, FOLDER, spec)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]

    assert [line["custom_id"] for line in lines] == [f"r{row}" for row in range(rows)]
    assert merged.failed == sum(row % 7 == 3 for row in range(rows))


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 23), st.integers(1, 6), STEPS)
def test_a_chunk_has_one_name_and_an_answer_file_one_writer(
    tmp_path: Path, rows: int, chunk_rows: int, steps: list[tuple[int, bool, list[tuple[str, int]]]]
) -> None:
    disk, spec = fresh(rows, chunk_rows, tmp_path / "out.jsonl")
    drive(disk, spec, steps)
    held = [claims.parse(p.name) for p in disk.files if p.parent.name != "answers"]
    parts = [p for p in disk.files if p.parent.name == "answers"]

    assert sorted(claim.chunk for claim in held if claim) == list(range(spec.chunks))
    for part in parts:
        found = [json.loads(a.line)["by"] for a in answers.decode(disk.files[part])]
        assert len(set(found)) <= 1, part


def test_a_merge_that_lacks_an_answer_writes_nothing_and_the_chunk_can_be_done_again(
    tmp_path: Path,
) -> None:
    disk, spec = fresh(6, 3, tmp_path / "out.jsonl")
    drive(disk, spec, [])
    torn = BatchFolder(FOLDER).answers(1, 0)
    disk.files[torn] = disk.files[torn][:-5]
    with pytest.raises(BatchError, match="request 5 of batch b has no answer"):
        merge.merge(disk, FOLDER, spec)
    left = list(tmp_path.iterdir())
    bad = list(merge.incomplete(disk, FOLDER, spec))
    assert left == []
    assert [claim.chunk for claim in bad] == [1]
    assert claims.reopen(disk, FOLDER, bad[0])
    drive(disk, spec, [])

    assert merge.merge(disk, FOLDER, spec).rows == 6


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20)), st.integers(0, 10_000), st.integers(0, 255))
def test_a_torn_or_bent_line_is_no_answer(texts: list[bytes], cut: int, flip: int) -> None:
    group = [RowAnswer(row, True, text.replace(b"\n", b"")) for row, text in enumerate(texts)]
    data = b"\n" + b"".join(map(answers.encode, group))
    where = cut % len(data)
    torn = list(answers.decode(data[:where]))
    bent = bytearray(data)
    bent[where] ^= flip

    assert torn == group[: len(torn)]
    assert all(found in group for found in answers.decode(bytes(bent)))


def test_a_good_answer_wins_over_an_earlier_error() -> None:
    disk = Disk()
    for attempt, (good, line) in enumerate([(False, b"{}"), (True, b"[1]"), (True, b"[2]")]):
        answers.append(disk, BatchFolder(FOLDER).answers(0, attempt), [RowAnswer(4, good, line)])

    def found(attempts: int) -> RowAnswer:
        return answers.collect(disk, FOLDER, 0, attempts)[4]

    assert [found(n).line for n in (1, 2, 3)] == [b"{}", b"[1]", b"[1]"]
