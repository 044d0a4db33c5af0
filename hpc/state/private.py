"""Closed files and closed memory of a process.

A command's first act is ``keep_files``: from then on everything that it writes is closed to other
users. Results that a user asked for, such as the output of a batch or an image, get the permissions
of the user's own umask, by ``user_umask`` and ``user_mode``.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE = 0o077
PR_SET_DUMPABLE = 4
_HIDDEN = re.compile(r"^\S+ /proc proc \S*\bhidepid=(?!0|off)")

_users: int | None = None
"""The umask before ``keep_files``."""


def keep_files(umask: int | None = None) -> None:
    """Close new files to foreign users, and remember the user's umask; a second call does nothing.

    Args:
        umask: the user's umask, known from an earlier process; None is this process's.
    """
    global _users  # noqa: PLW0603 - the umask is the process's, too
    if _users is not None:
        return
    before = os.umask(PRIVATE)
    _users = before if umask is None else umask


def keep_memory(*, children: bool = True) -> None:
    """Leave no core file, and close the memory to other processes of the same user.

    A size limit of 0 is not enough: by core(5) the kernel ignores it where a handler such as
    systemd-coredump takes the core through a pipe. Closed are also ``/proc/PID/fd``, ``environ``
    and the like, and debuggers such as py-spy need root; ``status``, ``stat`` and ``cmdline`` stay
    open, which is what process ids are checked by.

    Under hidepid=2 the kernel would hide such a process from its own user, too, and every command
    would take it for ended. There a limit of 1 byte stands in, which no pipe escapes.

    Args:
        children: limit the programs started by this process as well; an exec ends the rest.
    """
    closed = sys.platform == "linux" and not hides_processes(_mounts())
    if closed:
        import ctypes  # noqa: PLC0415 - most commands do without

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if children or not closed:
        with contextlib.suppress(ImportError):  # Windows
            import resource  # noqa: PLC0415 - see above

            hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
            most = 0 if closed or hard == 0 else 1
            resource.setrlimit(resource.RLIMIT_CORE, (most, hard))


def hides_processes(mounts: str) -> bool:
    """Return whether /proc hides processes that the reader may not trace.

    Source: proc(5), hidepid; values by name since Linux 5.8.

    Args:
        mounts: content of /proc/self/mounts.
    """
    return any(_HIDDEN.search(line) for line in mounts.splitlines())


def _mounts() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    return ""


def user_umask() -> int:
    """Return the user's umask: that before ``keep_files``, or the process's."""
    if _users is not None:
        return _users
    # The kernel tells a process's umask only by setting another: a moment without the user's,
    # in which the stricter one holds.
    now = os.umask(PRIVATE)
    os.umask(now)
    return now


@contextlib.contextmanager
def users_umask() -> Iterator[None]:
    """Give new files the permissions of the user's umask for a moment."""
    before = os.umask(user_umask())
    try:
        yield
    finally:
        os.umask(before)


def user_mode() -> int:
    """Return the mode of a file that the user asked for."""
    return 0o666 & ~user_umask()
