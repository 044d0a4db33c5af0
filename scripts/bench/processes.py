"""Programs under measurement: pinned, counted with their children, and ended with us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import IO

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1
END_S = 8.0


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for file in (PROC / str(pid) / "task").glob("*/children"):
            for child in file.read_text().split():
                found += family(int(child))
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and all below it have used so far."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            for file in (PROC / str(one) / "task").glob("*/schedstat"):
                total += int(file.read_text().split()[0])
    return total / 1e9


def rss_mb(pid: int) -> float:
    """Return the memory that a process and all below it hold, in MB."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            text = (PROC / f"{one}/smaps_rollup").read_text()
            found = re.search(r"^Rss:\s+(\d+)", text, re.MULTILINE)
            total += int(found[1]) if found else 0
    return round(total / 1024, 1)


def machine_s() -> float:
    """Return the CPU seconds of all that runs on the machine, but us and children that ended."""
    fields = [int(one) for one in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting, stolen = fields[3], fields[4], fields[7]
    busy = (sum(fields) - idle - waiting - stolen) / TICKS
    us = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return busy - sum(one.ru_utime + one.ru_stime for one in us)


def pin(core: int | None) -> None:
    """Keep this process on one core; None leaves it be."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def spawn(
    argv: list[str], log: IO[bytes], cwd: Path, *, core: int | None, env: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, on one core."""

    def prepare() -> None:
        os.setsid()
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        pin(core)

    return subprocess.Popen(
        argv,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
        cwd=cwd,
        preexec_fn=prepare,  # noqa: PLW1509 - no threads here
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program, and what it started and left."""
    started = family(process.pid)[1:]
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in started:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
