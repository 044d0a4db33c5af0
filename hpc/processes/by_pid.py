"""Processes of the machine, each known by an identity that no other process ever has.

A process id alone is reused, and a command line is whatever its owner writes: after a crash another
user can have both. So records keep an identity, and no signal goes to anything else.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that ends a process for certain; Windows knows SIGTERM only."""
_USER = re.compile(r"^Uid:\s+([0-9]+)", re.MULTILINE)


def stop(process: str, *, grace_s: float = 10.0) -> bool:
    """End a process started by another run of ours.

    Args:
        process: return value of ``identity``.
        grace_s: seconds between SIGTERM and SIGKILL.

    Returns:
        Whether the process is gone; False for a process that survived.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (KILL, 5.0)):
        send(process, number)
        deadline = time.monotonic() + wait_s
        while alive(process):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return True
    return False


def send(process: str, number: int) -> bool:
    """Send a signal to a single process; return whether the process was there.

    Args:
        process: return value of ``identity``.
        number: the signal.
    """
    pid = process.partition(" ")[0]
    if not pid.isdecimal():
        return False
    with contextlib.ExitStack() as opened:
        handle = _hold(int(pid))
        if handle is not None:
            opened.callback(os.close, handle)
        # The handle first: it stays with the process that the identity is then read from. Where
        # the kernel has no handles (Linux before 5.3, macOS), the process may end, and its id be
        # given anew, in the microseconds between this look and the signal.
        if not alive(process):
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if handle is None:
                os.kill(int(pid), number)
            else:
                signal.pidfd_send_signal(handle, number)
            return True
    return False


def _hold(pid: int) -> int | None:
    """Return a handle of a process, or None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def alive(process: str) -> bool:
    """Return whether a process of ours runs, by its ``identity``; False for ""."""
    pid = process.partition(" ")[0]
    return pid.isdecimal() and identity(int(pid)) == process


def identity(pid: int) -> str | None:
    """Return a text that identifies a process of ours among all earlier and later ones of its id.

    Source: proc_pid_stat(5); the start time counts from boot and is the 22nd field.

    Args:
        pid: process id on this machine.

    Returns:
        Process id, boot id and start time; None if no such process of this user runs.
    """
    if not hasattr(os, "getuid") or not Path("/proc/self/stat").exists():
        return _identity_elsewhere(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # Not the owner of the folder: of a process without core dumps, that is root.
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    user = _USER.search(status)
    state, started = stat.rpartition(")")[2].split()[:20:19]
    ours = user is not None and int(user[1]) == os.getuid()
    return f"{pid} {boot} {started}" if ours and state != "Z" else None


def _identity_elsewhere(pid: int) -> str | None:
    """Return the identity of a process on a laptop's macOS or Windows."""
    import psutil  # noqa: PLC0415 - Linux does without

    try:
        found = psutil.Process(pid)
        if hasattr(os, "getuid") and found.uids().real != os.getuid():
            return None
        zombie = found.status() == psutil.STATUS_ZOMBIE
        return None if zombie else f"{pid} - {found.create_time()!r}"
    except psutil.Error:
        return None
