"""The leash of a program that must not outlive its parent: leash.py PARENT PROGRAM ARGV...

The kernel tells us by SIGTERM when our parent dies, by SIGKILL too. The program then has a few
seconds to end by itself; a server may have missed the signal while it loaded its model. After that
everything it started is killed, wherever that has moved to: what loses its parent becomes ours.

Source: PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER in prctl(2). The standard library alone, and no
import of ours: this runs as a file, before any environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0
AGAIN_S = 0.5


def main(parent: int, program: str, argv: list[str]) -> NoReturn:
    """Run a program, and end as the program does once all its descendants are gone.

    Args:
        parent: id of the process that must live.
        program: path of the program.
        argv: the program's name and arguments.
    """
    libc = ctypes.CDLL(None)
    _no_cores()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = 0

    def on_term(number: int, frame: object) -> None:
        """Pass on a SIGTERM from the kernel; any other SIGTERM has reached the whole group."""
        del frame
        if os.getppid() != parent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
            signal.setitimer(signal.ITIMER_REAL, GRACE_S, AGAIN_S)

    # An exec resets handled signals for the program to their defaults, but not ignored ones.
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGALRM, lambda *_: kill_all())
    child = os.fork()
    if child == 0:
        _become(libc, program, argv)
    # The parent may have died before prctl took effect: then no signal comes, so look once.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        kill_all()
    status = _wait(child)
    while kill_all():
        time.sleep(0.01)
        _reap()
    _end_like(status)


def _no_cores() -> None:
    """Prevent core files of the program, which hold what its clients wrote.

    A limit of 1 byte: the kernel ignores a limit of 0, but not of 1, where a handler such as
    systemd-coredump takes the core through a pipe (Linux, fs/coredump.c, ``do_coredump``).
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    most = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (most, hard))


def kill_all() -> bool:
    """Send SIGKILL to all descendants; return whether any existed."""
    below, parents = {os.getpid()}, _parents()
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        grown = bool(more)
        below |= more
    below.discard(os.getpid())
    for pid in below:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(below)


def _parents() -> dict[int, int]:
    """Return the parent of each process but zombies, from proc_pid_stat(5)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent, *_ = (
                    (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                )
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found


def _become(libc: ctypes.CDLL, program: str, argv: list[str]) -> NoReturn:
    """Replace this process with the program, which dies with the leash."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python, and so after exec
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(program, argv)  # noqa: S606 - the purpose of this program
    finally:
        os._exit(127)


def _wait(child: int) -> int:
    """Return the program's wait status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_like(status: int) -> NoReturn:
    """End with the program's exit status, or by the signal that ended it, without a core."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
