"""The number of files that a process may have open; each connection is one."""

from __future__ import annotations

import contextlib
import resource

MOST_FILES = 65_536
"""Bound on a raised limit: some programs close every possible descriptor before they start others,
and a machine without a limit allows a billion."""


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard limit, and return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MOST_FILES if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
