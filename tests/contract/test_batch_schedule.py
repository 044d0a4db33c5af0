"""Batches that run again and again: by a scrontab or by jobs; the engine is real."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.slurm import FakeSlurm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "examples/demo-model/demo-f16.gguf"
THEIRS = b"# what I had before: caf\xe9\r\n#SCRON --time=3\n0 4 * * 0 /bin/true\n"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    made = FakeSlurm.install(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    write_requests(tmp_path / "in.jsonl", 4)
    yield made
    made.close()


def write_requests(path: Path, count: int) -> None:
    asked = [{"role": "user", "content": "Who wrote Emma?"}]
    body = {"messages": asked, "temperature": 0, "max_tokens": 16}
    lines = [json.dumps({"custom_id": f"r{n}", **body}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n")


def batch(*words: str, code: int = 0) -> str:
    argv = [sys.executable, "-m", "hpc", "batch", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def submit(*more: str, out: str = "out-{date}.jsonl", code: int = 0) -> str:
    engine = ["--engine=llamacpp", "--container=none", f"--model={MODEL}", "--cpus=2", "--time=10"]
    when = "0 22 * * mon-fri"
    return batch("submit", "in.jsonl", f"-o{out}", *engine, "--every", when, *more, code=code)


def schedules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(batch("schedules", "--json"))
    return found


def wait(holds: Callable[[], object], what: str, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.2)


def states() -> list[str]:
    return [one["state"] for one in json.loads(batch("ls", "--json"))]


def test_a_scrontab_starts_it_and_never_two_at_once(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(scrontab=True)
    table = fake.folder / "scrontab"
    table.write_bytes(THEIRS)
    told = "echo $HPC_SERVE_BATCH_STATE $HPC_SERVE_BATCH_GOOD > done.txt"
    submit("--max-hours=6", f"--on-done={told}")
    assert table.read_bytes().startswith(THEIRS)
    text = table.read_bytes().removeprefix(THEIRS).decode()
    line = text.splitlines()[-2]
    assert line.startswith("0 22 * * 1-5 ")
    assert "#SCRON --job-name=hpc-serve-every-1\n" in text

    fake.set(slots=0)  # or the batch is done before the second night
    for _ in range(2):  # as Slurm would, twice in one night
        subprocess.run(["sh", "-c", line.split(maxsplit=5)[5]], check=True, timeout=60)
    fake.set(slots=4)
    (one,) = schedules()
    assert [run["result"] for run in one["runs"]] == ["submitted", "skipped"]
    assert one["trouble"] is None
    wait(lambda: states() == ["DONE"], "the batch is done")
    (out,) = tmp_path.glob("out-2*.jsonl")
    answers = [json.loads(each) for each in out.read_text().splitlines()]
    assert [each["custom_id"] for each in answers] == ["r0", "r1", "r2", "r3"]
    texts = {each["response"]["body"]["choices"][0]["message"]["content"] for each in answers}
    assert {text.strip() for text in texts} == {"Jane Austen wrote Emma."}
    wait((tmp_path / "done.txt").exists, "the command is run")
    assert (tmp_path / "done.txt").read_text() == "DONE 4\n"

    batch("unschedule", "every-1")
    assert table.read_bytes() == THEIRS
    assert schedules() == []


def test_schedules_of_two_state_directories_share_a_scrontab(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.set(scrontab=True)
    table = fake.folder / "scrontab"
    table.write_bytes(THEIRS)
    other = f"--home={tmp_path / 'other'}"
    submit()
    first = table.read_bytes()
    submit(other)
    both = table.read_bytes()
    assert both.startswith(first)
    assert both.count(b" tick every-1 ") == 2

    lines = both.splitlines(keepends=True)
    table.write_bytes(b"".join(lines[:-1]))  # somebody removed the last marker
    assert "your scrontab has not both of the lines" in batch(
        "unschedule", "every-1", other, code=4
    )
    assert table.read_bytes() == b"".join(lines[:-1])
    table.write_bytes(both)
    batch("unschedule", "every-1")
    assert table.read_bytes() == THEIRS + both.removeprefix(first)
    (left,) = json.loads(batch("schedules", "--json", other))
    assert left["trouble"] is None
    table.write_bytes(first)  # that of the other directory is not taken for it
    (left,) = json.loads(batch("schedules", "--json", other))
    assert left["trouble"] == "its line is gone from your scrontab"


def test_without_a_scrontab_jobs_follow_each_other(fake: FakeSlurm, tmp_path: Path) -> None:
    submit("--every-partition=gpu", "--mail=me@example.org", "--on-done=echo no room >&2; exit 3")
    (first,) = fake.jobs()
    assert first["begin"] > time.time()
    assert "#SBATCH --partition=gpu" in fake.script(first["id"])
    (tmp_path / "in.jsonl").rename(tmp_path / "moved.jsonl")
    fake.change(first["id"], begin=0)  # the time has come
    wait(lambda: schedules()[0]["runs"], "the run is told")
    (one,) = schedules()
    assert one["via"] == "job"
    assert one["runs"][0]["result"] == "failed"
    assert "cannot read" in one["runs"][0]["text"]
    wait(lambda: len(fake.jobs()) == 2, "the next job waits")
    second = fake.jobs()[1]
    assert second["begin"] > time.time()

    (tmp_path / "moved.jsonl").rename(tmp_path / "in.jsonl")
    fake.change(second["id"], begin=0)
    wait(lambda: states() == ["DONE"], "the batch is done")
    (mailed,) = [j for j in fake.jobs() if "--mail-user=me@example.org" in fake.script(j["id"])]
    assert "#SBATCH --mail-type=END,FAIL" in fake.script(mailed["id"])
    (ran,) = json.loads(batch("ls", "--json"))
    wait(
        lambda: "--on-done: the command ended with 3: no room" in batch("status", ran["id"]),
        "the command's failure is told",
    )
    waiting = [job for job in fake.jobs() if job["begin"] > time.time()]
    assert len(waiting) == 1
    fake.change(waiting[0]["id"], cancelled=True)
    wait(lambda: schedules()[0]["trouble"], "its loss is told")
    batch("unschedule", "every-1")
    assert schedules() == []


def test_what_cannot_be_meant_is_refused_and_leaves_nothing(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    assert "would be overwritten by the next run" in submit(out="out.jsonl", code=2)
    fake.set(scrontab=True, controller="up", partitions={})
    assert "--every '0 25 * * *' is no time" in batch(
        *("submit", "in.jsonl", "-oout-{date}.jsonl", "--engine=llamacpp", "--container=none"),
        *(f"--model={MODEL}", "--every", "0 25 * * *"),
        code=2,
    )
    fake.set(scrontab=False)
    assert "Slurm refused the job" in submit(code=4)
    assert "needs --every" in batch(
        *("submit", "in.jsonl", "-oout.jsonl", "--engine=llamacpp", f"--model={MODEL}"),
        "--every-partition=gpu",
        code=2,
    )
    assert "--at and --mail are for Slurm" in batch(
        *("submit", "in.jsonl", "-oout.jsonl", "--service=m", "--at=22:00", "--mail=me"), code=2
    )
    assert schedules() == []
    assert not list((tmp_path / "state/schedules").iterdir())


def test_hours_that_are_over_pause_a_batch_and_the_next_run_goes_on(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.set(scrontab=True)
    write_requests(tmp_path / "in.jsonl", 60)
    submit("--max-hours=0.0000001", out="out-{date}-{time}.jsonl")
    line = (fake.folder / "scrontab").read_text().splitlines()[-2].split(maxsplit=5)[5]
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    wait(lambda: states() == ["PAUSED"], "the batch paused")
    (spec,) = tmp_path.glob("state/batches/*/spec.json")
    changed = json.loads(spec.read_text()) | {"max_hours": 5.0}
    spec.write_text(json.dumps(changed))
    subprocess.run(["sh", "-c", line], check=True, timeout=60)
    assert [run["result"] for run in schedules()[0]["runs"]] == ["submitted", "resumed"]
    wait(lambda: states() == ["DONE"], "the batch is done", 200)
    batch("unschedule", "every-1")
