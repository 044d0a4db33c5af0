"""The command line on a Python that lacks what Windows lacks: python -m tests.fakes.posixless ...

The libraries that are loaded first choose their own ways on Windows; what is left is our code.
"""

# ruff: noqa: F401 - these are loaded before they could miss anything

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import httpx
import paramiko
import psutil
import rich.progress
import sshtunnel
import tenacity

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
FUNCTIONS = {
    os: (
        *("getuid", "geteuid", "getgid", "getpgid", "setsid", "fork", "killpg", "fchmod", "fchown"),
        *("mkfifo", "uname", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY"),
    ),
    signal: ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "pthread_sigmask"),
    select: ("poll", "epoll"),
    socket: ("AF_UNIX",),
}


class Absent:
    """Finds none of the modules that only POSIX has."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Refuse them, and leave the others to the rest."""
        del path, target
        if name in MODULES:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
        return None


def take_away() -> None:
    """Remove what Windows does not have."""
    os.environ.setdefault("USERNAME", "me")  # always set there
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Absent)
    # There, the library makes a pair of TCP sockets.
    socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)
    for module, names in FUNCTIONS.items():
        for name in names:
            delattr(module, name)


if __name__ == "__main__":
    take_away()
    from hpc.__main__ import main

    main()
