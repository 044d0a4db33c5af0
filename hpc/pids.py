"""Processes of this machine that we know by their id alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""What ends a process for certain; Windows has one way only."""


def stop_pid(pid: int, *, marker: str, grace_s: float = 10.0) -> bool:
    """End a process that another run of ours started.

    Args:
        pid: its process id on this machine.
        marker: text that its command line must hold, since ids are used again.
        grace_s: seconds between SIGTERM and SIGKILL.

    Returns:
        Whether it is gone; False where it is alive but not ours.
    """
    if not alive(pid, marker=marker):
        return True
    for number, wait_s in ((signal.SIGTERM, grace_s), (KILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if not alive(pid, marker=marker):
                return True
            time.sleep(0.05)
    return not alive(pid, marker=marker)


def alive(pid: int, *, marker: str) -> bool:
    """Tell whether a process of this machine runs and is the one we mean.

    Args:
        pid: its process id.
        marker: text that its command line must hold.
    """
    words = arguments(pid)
    return bool(words) and marker in " ".join(words)


def arguments(pid: int) -> list[str]:
    """Return the command line of a process of this machine, or nothing where there is none."""
    import psutil  # noqa: PLC0415 - most commands do without

    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def identity(pid: int) -> str | None:
    """Return what tells a process from every other that had or will have its id.

    Source: proc_pid_stat(5); the start time counts from boot and is the 22nd field.

    Args:
        pid: its process id on this machine.

    Returns:
        Its id, the boot and its start time; None where there is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    state, started = stat.rpartition(")")[2].split()[:20:19]
    return None if state == "Z" else f"{pid} {boot} {started}"
