"""logs: whole lines, of the right replica, from one look to the next."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc.cli import logs, main
from hpc.model import JobHandle, ServiceSpec
from hpc.state import directory, files

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ServiceSpec(name="tiny", engine="llamacpp", server="llama-server", model="/m.gguf")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two replicas whose engines, sidecars and jobs have written something."""
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    root = directory.home()
    directory.save_spec(root, replace(SPEC, replicas=2))
    folder = directory.jobs_dir(root, "tiny")
    folder.mkdir()
    for number, job in enumerate(("17", "18")):
        engine = directory.engine_log(root, "tiny", number)
        files.write_text(engine, f"loading {number}\nready {number}\n")
        files.write_text(engine.with_name("sidecar.log"), f"listening {number}\n")
        directory.save_job(root, "tiny", number, JobHandle(job, "slurm", str(folder)))
        for stream in ("out", "err"):
            (folder / f"{job}_0_log.{stream}").write_text(f"{stream} of {job}\n")
    return root


def run(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        main.run(["logs", "tiny", *words])
    return caught.value.code


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ((), ["[0] loading 0", "[0] ready 0", "[1] loading 1", "[1] ready 1"]),
        (("--tail", "1"), ["[0] ready 0", "[1] ready 1"]),
        (("--tail", "0"), []),
        (("--replica", "1"), ["loading 1", "ready 1"]),
        (("-r", "0", "--source", "sidecar"), ["listening 0"]),
        (("-r", "1", "--source", "job"), ["err of 18", "out of 18"]),
    ],
    ids=" ".join,
)
def test_lines_of_the_logs_that_were_asked_for(
    root: Path, words: tuple[str, ...], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_scripts_get_the_paths(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "0": [str(directory.engine_log(root, "tiny", 0))],
        "1": [str(directory.engine_log(root, "tiny", 1))],
    }


def test_a_replica_that_is_none_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--replica", "2") == 2
    said = "hpc-serve: tiny has 2 replica(s), counted from 0; not 2\n"
    assert capsys.readouterr().err == said


def test_what_is_not_written_yet_is_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1):
        directory.engine_log(root, "tiny", number).unlink()
    for path in directory.jobs_dir(root, "tiny").iterdir():
        path.unlink()
    assert run() == 0
    assert capsys.readouterr().out == ""


def test_a_look_at_the_end_shows_an_unfinished_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_bytes("ä\n\nloading 3".encode())
    logs.show(log, "> ", 2, follow=False)
    assert capsys.readouterr().out == "> \n> loading 3\n"


def test_following_prints_every_line_once_and_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where a look falls in the middle of a line, or of a letter."""
    log = tmp_path / "log"
    text = "one\ntwö ü\nthree\n".encode()
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            log.write_bytes(text[:first])
            end = logs.show(log, "", 100, follow=True)
            log.write_bytes(text[:second])
            end = logs.more(log, "", end)
            log.write_bytes(text)
            assert logs.more(log, "", end) == len(text)
            assert capsys.readouterr().out == text.decode()


def test_following_takes_up_a_log_that_begins_anew_or_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    assert logs.show(log, "", 100, follow=True) == 0
    log.write_text("first, and long\n")
    end = logs.more(log, "", 0)
    log.write_text("anew\n")
    end = logs.more(log, "", end)
    log.unlink()
    assert logs.more(log, "", end) == end == len("anew\n")
    assert capsys.readouterr().out == "first, and long\nanew\n"


def test_a_job_that_never_started_an_engine_shows_its_own_log(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory.engine_log(root, "tiny", 1).unlink()
    assert run("--replica", "1") == 0
    assert capsys.readouterr().out.splitlines() == ["err of 18", "out of 18"]
