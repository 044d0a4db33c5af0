"""What the lab needs from the machine it runs on: programs, locks, process identities."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FILES = Path(__file__).parent / "files"

# Program to look for, Debian package that brings it.
HOST_PROGRAMS = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}


class LabError(Exception):
    """The lab cannot do what was asked."""


class CommandError(LabError):
    """A command ended with a non-zero status or ran out of time.

    Args:
        argv: the command.
        status: its exit status, negative for a signal, or what else happened.
        stdout: what it printed.
        stderr: what it printed on standard error.
    """

    def __init__(self, argv: Sequence[str], status: int | str, stdout: str, stderr: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        output = "\n".join(text.rstrip() for text in (stdout[-4000:], stderr[-4000:]) if text)
        super().__init__(f"{' '.join(argv)}: {status}\n{output}".rstrip())


def sh(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """Run a program on the machine itself and return what it printed.

    Raises:
        CommandError: the program is missing or ended with a non-zero status.
    """
    try:
        done = subprocess.run(
            argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise CommandError(argv, "not found", "", "") from error
    if done.returncode:
        raise CommandError(argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


def require_root() -> None:
    """Refuse to go on without the rights that namespaces and mounts need.

    Raises:
        LabError: not root.
    """
    if os.geteuid() != 0:
        msg = "the lab needs root, for namespaces and mounts; nothing in it runs as root afterwards"
        raise LabError(msg)


def install_programs() -> None:
    """Install what `HOST_PROGRAMS` lists and this machine lacks."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = {pkg for name, pkg in HOST_PROGRAMS.items() if not shutil.which(name, path=path)}
    if missing:
        sh(["apt-get", "update", "-qq"])
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        argv = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(missing)]
        sh(argv, env=env)


def remove_tree(path: Path) -> None:
    """Remove a folder, never crossing into something mounted inside it."""
    if path.exists():
        sh(["rm", "-rf", "--one-file-system", "--", str(path)])


def wait_until(true: Callable[[], bool], what: str, timeout: float, every: float = 0.1) -> None:
    """Poll until a condition holds.

    Args:
        true: the condition.
        what: the condition in words, for the error.
        timeout: seconds to wait.
        every: seconds between two looks.

    Raises:
        LabError: it did not hold in time.
    """
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            msg = f"gave up after {timeout:g} s waiting until {what}"
            raise LabError(msg)
        time.sleep(every)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, refusing at once when somebody else does.

    Args:
        path: the lock file.
        what: what it guards, for the error.

    Raises:
        LabError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{what} is in use by another process (it holds {path})"
            raise LabError(msg) from error
        yield


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Hold a lock file, after waiting for whoever does.

    Args:
        path: the lock file of what several labs share and one of them makes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one with the same number.

    Args:
        pid: its number.
        started: clock ticks between boot and its start.
        boot: identifier of that boot.
    """

    pid: int
    started: str
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of a process that runs now."""
        return cls(pid, _start_ticks(pid), _boot_id())

    @classmethod
    def read(cls, path: Path) -> ProcessId | None:
        """Return what `write` left, or None where there is nothing usable."""
        try:
            pid, started, boot = path.read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return cls(int(pid), started, boot)

    def write(self, path: Path) -> None:
        """Record it in a file."""
        path.write_text(f"{self.pid} {self.started} {self.boot}\n")

    def alive(self) -> bool:
        """Say whether this very process still runs."""
        try:
            return _boot_id() == self.boot and _start_ticks(self.pid) == self.started
        except OSError:
            return False

    def child(self) -> int | None:
        """Return the number of its first child, if it has one."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children and self.alive() else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> str:
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if state == "Z":
        raise ProcessLookupError(pid)
    return fields[18]
