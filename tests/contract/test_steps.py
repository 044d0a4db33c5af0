"""One step of an installation: what is shown of it, on a terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.steps import COLLECTING, Progress, last_lines
from tests.waits import PATIENCE_S

STEPS = Path(__file__).resolve().parents[2] / "scripts/steps.py"
NOISE = "WARNING: Location 'file:///x/' is ignored: it is neither a file nor a directory.\n"


def argv(log: Path, code: str, *options: str) -> list[str]:
    """Return the command of a step that runs some Python."""
    step = [sys.executable, str(STEPS), "--log", str(log), *options, "a step"]
    return [*step, "--", sys.executable, "-c", code]


def run(log: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(log, code, *options), check=False, capture_output=True, text=True)


def test_a_step_that_ends_well_leaves_two_lines_and_its_output_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "a folder/log"
    done = run(log, "print('inside')", "--usually", "3")

    assert done.returncode == 0
    assert done.stdout == ""
    first, last = done.stderr.splitlines()
    assert first == "  a step (usually 3 s) ..."
    assert re.fullmatch(r"  a step: \d+\.\d s", last)
    assert log.read_text().splitlines()[1:] == ["inside"]


def test_a_step_that_fails_names_the_log_and_tells_the_cause_without_noise(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(log, "print('ERROR: of an earlier step')")
    code = f"print({NOISE!r} * 400 + 'fine\\nERROR: no space\\n  on disk'); raise SystemExit(7)"
    done = run(log, code)

    assert done.returncode == 7
    shown = done.stderr.splitlines()
    assert f"failed with status 7; its output is in {log}:" in shown[1]
    assert shown[2:] == ["    ERROR: no space", "      on disk"]


def test_a_failure_that_means_something_is_none(tmp_path: Path) -> None:
    done = run(tmp_path / "log", "raise SystemExit('ERROR: none')", "--otherwise", "none here")

    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [done.stderr.splitlines()[-1]]
    assert done.stderr.endswith(" s, none here\n")


def test_a_terminal_sees_one_line_that_moves(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    code = "import time; print('[3/4] x', flush=True); time.sleep(1)"
    done = subprocess.run(argv(tmp_path / "log", code), check=False, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)

    assert done.returncode == 0
    assert shown.count("\n") == 1
    assert f"[{'#' * 15}{'.' * 5}] 75%" in shown
    assert re.search(r"\r\033\[K  a step: 1\.\d s\r\n$", shown)


def test_a_signal_reaches_the_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(argv(log, code), stderr=subprocess.DEVNULL) as step:
        while not log.exists() or "ready\n" not in log.read_text():
            assert step.poll() is None
            time.sleep(0.05)
        step.send_signal(signal.SIGTERM)
        assert step.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("nothing\n", None),
        ("Collecting a\nRequirement already satisfied: b\n", COLLECTING / 2),
        ("Ignoring c: markers\n" * 9, COLLECTING),
        ("Collecting a\n  [10/40] g++ x\n", 0.25),
        ("[10/40] whole\n[20/4", 0.25),
    ],
)
def test_the_part_that_is_done_is_read_from_the_log(
    tmp_path: Path, text: str, done: float | None
) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    progress = Progress(log, 0, of=4)

    assert progress.read() == done
    assert progress.read() == done


def test_without_an_error_the_last_lines_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(30)))

    assert last_lines(log, 0)[0] == "20"
    assert last_lines(log, 0)[-1] == "29"
