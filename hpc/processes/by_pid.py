"""Processes of this machine, known by their process id alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that ends a process for certain; Windows knows SIGTERM only."""


def stop_pid(pid: int, *, marker: str, grace_s: float = 10.0) -> bool:
    """End a process started by another run of ours.

    Args:
        pid: process id on this machine.
        marker: text in the process's command line, since process ids are reused.
        grace_s: seconds between SIGTERM and SIGKILL.

    Returns:
        Whether the process is gone; False for a process that survived.
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
    """Return whether a process of this machine runs and is the expected one.

    Args:
        pid: process id.
        marker: text that the command line must hold.
    """
    words = arguments(pid)
    return bool(words) and marker in " ".join(words)


def arguments(pid: int) -> list[str]:
    """Return the command line of a process of this machine, empty if no such process runs."""
    import psutil  # noqa: PLC0415 - most commands do without

    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def identity(pid: int) -> str | None:
    """Return a text that identifies a process among all earlier and later processes of its id.

    Source: proc_pid_stat(5); the start time counts from boot and is the 22nd field.

    Args:
        pid: process id on this machine.

    Returns:
        Process id, boot id and start time; None if the process does not run.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    state, started = stat.rpartition(")")[2].split()[:20:19]
    return None if state == "Z" else f"{pid} {boot} {started}"
