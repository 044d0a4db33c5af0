"""A crash leaves no core file, which would hold the keys and prompts of everybody."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.processes import own_python, programs
from tests.contract.gateway.programs import PATIENCE_S, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CLD_DUMPED = 3
"""Source: waitid(2), bits/siginfo-consts.h."""
HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]


@pytest.fixture(autouse=True)
def _cores_are_on() -> Iterator[None]:
    """Play a site where crashes leave cores."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (HARD, HARD))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def soft_limit(pid: int) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4] for line in lines if line.startswith("Max core file size"))


def crash(process: subprocess.Popen[str]) -> bool:
    """Crash a program; return whether it left a core file."""
    process.send_signal(signal.SIGABRT)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    process.wait(PATIENCE_S)
    assert ended is not None
    assert ended.si_status == signal.SIGABRT
    return ended.si_code == CLD_DUMPED


def commands(folder: Path) -> dict[str, list[str]]:
    (folder / "secret").write_text("s3cret\n")
    (folder / "jobs").mkdir(exist_ok=True)
    home = ("--home", str(folder / "state"))
    ready = ("--secret-file", str(folder / "secret"), "--ready-file", str(folder / "ready"))
    return {
        "gateway": own_python.argv("gateway_lite", "run", "--port", "0", *home),
        "sidecar": own_python.argv("gateway_lite", "sidecar", "--upstream-port", "1", *ready),
        "processor": own_python.argv("hpc.openai_batches.processor", *home),
        "job": own_python.argv("hpc.jobs.run_task", str(folder / "jobs")),
    }


@pytest.mark.parametrize("name", ["gateway", "sidecar", "processor", "job"])
def test_what_holds_keys_and_prompts_leaves_no_core(tmp_path: Path, name: str) -> None:
    slurm = {f"SLURM_{one}": "1" for one in ("JOB_ID", "JOB_NUM_NODES", "NTASKS")}
    slurm |= {f"SLURM_{one}": "0" for one in ("NODEID", "PROCID", "LOCALID")}
    slurm["SUBMITIT_EXECUTOR"] = "slurm"
    running = subprocess.Popen(
        commands(tmp_path)[name], env={**environment(), **slurm}, cwd=tmp_path, text=True
    )
    try:
        wait_until(lambda: soft_limit(running.pid) == "0")
        assert not crash(running)
        assert not list(tmp_path.glob("core*"))
    finally:
        running.kill()
        running.wait(PATIENCE_S)


def test_an_engine_leaves_no_core_not_even_through_a_pipe(tmp_path: Path) -> None:
    """By core(5) a limit of 0 bytes does not stop systemd-coredump and its like; 1 byte does."""
    log = tmp_path / "log"
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    child = programs.spawn([sys.executable, "-c", code], log=log, cwd=tmp_path, leashed=True)
    assert child.wait(PATIENCE_S) == 0
    assert int(log.read_text()) == (1 if HARD else 0)
