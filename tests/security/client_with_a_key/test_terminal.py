"""A client whose prompt stands in an engine's log, which the owner reads on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.state import directory
from tests.contract.gateway.programs import REPO, environment

if TYPE_CHECKING:
    from pathlib import Path

ATTACK = "\x1b]0;OWNED\x07\x1b[2J\x9b31m\u202e\x08"
FORBIDDEN = [mark.encode() for mark in ("\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e", "\x08")]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a state directory with a failed replica whose words are an attack."""
    root = directory.home(str(tmp_path / "home"))
    spec = ServiceSpec(name="m", engine="llamacpp", server="llama-server", model="/m.gguf")
    directory.save_spec(root, spec)
    plain = Endpoint("m", 0, "m", "", 0, Phase.FAILED, "1", None, 0.0)
    directory.save_endpoint(root, replace(plain, cause=f"failed {ATTACK} loading"))
    directory.engine_log(root, "m", 0).write_text(f"a prompt {ATTACK} here\n0%\r50%\r100%\r\n")
    return root


def on_terminal(home: Path, *words: str) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, and return its status and all that it wrote."""
    master, slave = pty.openpty()
    argv = [sys.executable, "-m", "hpc", *words, "--home", str(home)]
    env = {**environment(), "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        argv, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=REPO
    ) as process:
        os.close(slave)
        parts = []
        try:
            while part := os.read(master, 65536):
                parts.append(part)
        except OSError:  # the last writer has closed its end
            pass
        os.close(master)
    return process.returncode, b"".join(parts)


@pytest.mark.parametrize(
    "words",
    [
        ("logs", "m"),
        ("status", "m"),
        ("ls",),
        ("status", f"x{ATTACK}"),
        ("logs", f"x{ATTACK}"),
        ("keys", "revoke", f"x{ATTACK}"),
        ("batch", "status", f"x{ATTACK}"),
    ],
)
def test_no_words_of_others_command_the_terminal(home: Path, words: tuple[str, ...]) -> None:
    _, written = on_terminal(home, *words)

    assert written.strip()
    for mark in FORBIDDEN:
        assert mark not in written, written


def test_the_log_is_readable_all_the_same(home: Path) -> None:
    _, written = on_terminal(home, "logs", "m")

    assert b"a prompt " in written
    assert b"\r\n100%\r\n" in written
    assert b"50%" not in written


def test_a_pipe_gets_the_log_as_it_is_and_json_is_escaped(home: Path) -> None:
    argv = [sys.executable, "-m", "hpc"]
    more = ["--home", str(home)]
    env = environment()
    log = subprocess.run(
        [*argv, "logs", "m", *more], env=env, cwd=REPO, capture_output=True, check=True
    )
    status = subprocess.run(
        [*argv, "status", "m", "--json", *more], env=env, cwd=REPO, capture_output=True, check=False
    )

    assert b"\x1b]0;OWNED\x07" in log.stdout
    assert json.loads(status.stdout)
    assert status.stdout.isascii()
    assert b"\x1b" not in status.stdout
