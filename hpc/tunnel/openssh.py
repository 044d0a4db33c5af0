"""The transport through the system's ssh: the user's configuration, agent, jump hosts and codes.

One master connection in a private folder serves the remote command and the forwarded port, so
that a password or code is asked for once. We hold an open connection to its control socket:
it ends when the master does, and where we end without a word the master sees that, falls idle
and leaves (``ControlPersist``).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import process
from hpc.errors import CommandError
from hpc.tunnel import failures
from hpc.tunnel.link import ALIVE_COUNT, ALIVE_S, CONNECT_S, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.errors import TunnelError
    from hpc.process import Result
    from hpc.tunnel.login import Login

ORPHAN_S = 5
"""Seconds until a master leaves that nobody is connected to."""
SOCKET_PATH_MAX = 60
"""Bytes of the folder's path; ssh appends 20 to it, and a socket's path ends at 104 on macOS."""
SSH_FAILED = 255


class OpenSSH:
    """A master connection of the ssh program.

    Args:
        login: where to, and as whom.
        folder: a fresh private folder, removed at the end.
    """

    def __init__(self, login: Login, folder: Path) -> None:
        self._login = login
        self._folder = folder
        self._control = folder / "s"
        self._log = folder / "log"
        self._leash = socket.socket(socket.AF_UNIX)
        self._pid: int | None = None

    def start(self, *, interactive: bool) -> None:
        """Authenticate, then leave the master in the background.

        Raises:
            TunnelError: the host or its key is not the one expected, or nobody let us in.
        """
        argv = _master_argv(self._login, self._control, self._log, interactive=interactive)
        with _shown(self._log, interactive=interactive):
            status = process.run_attached(argv)
        if status != 0:
            raise failures.from_ssh(self._login, self._said())
        try:
            self._leash.connect(str(self._control))
        except OSError as error:
            raise failures.from_ssh(self._login, self._said()) from error
        self._leash.setblocking(False)
        found = re.search(r"pid=(\d+)", self._ask("-O", "check").stderr)
        self._pid = int(found[1]) if found else None

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a command line there and return what it said, whatever its exit status."""
        late = threading.Event()
        timer = threading.Timer(timeout_s, self._give_up, (late,))
        timer.start()
        try:
            result = self._ask("-T", command=command, timeout_s=None)
        finally:
            timer.cancel()
        if late.is_set():
            raise failures.too_slow(self._login, timeout_s)
        if result.returncode == SSH_FAILED and not self.alive():
            raise failures.from_ssh(self._login, self._said())
        return result

    def forward(self, port: int, to: tuple[str, int]) -> None:
        """Let a port of 127.0.0.1 here lead to a host and port as the login node sees them."""
        host = f"[{to[0]}]" if ":" in to[0] else to[0]
        if self._ask("-O", "forward", "-L", f"{LOOPBACK}:{port}:{host}:{to[1]}").returncode != 0:
            if not self.alive():
                raise self._lost()
            raise failures.port_refused(port)

    def alive(self) -> bool:
        """Tell whether the master still runs: its end closes our connection to it."""
        try:
            while self._leash.recv(4096):
                pass
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """End the master, its forwarded ports and every process behind it."""
        self._exit()
        self._leash.close()
        if self._pid is not None:
            process.stop_pid(self._pid, marker=str(self._control), grace_s=2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(
        self, *arguments: str, command: str | None = None, timeout_s: float | None = 15
    ) -> Result:
        """Run ssh against the master alone: no configuration, and no way around it."""
        argv = ["ssh", "-F", "/dev/null", "-S", str(self._control), "-o", "ControlMaster=no"]
        argv += ["-o", "ProxyCommand=false", *arguments, "--", "master"]
        argv += [command] if command is not None else []
        return process.run(argv, timeout_s=timeout_s, check=False)

    def _give_up(self, late: threading.Event) -> None:
        """End the master: it holds the outputs of a command, whose ssh alone would not let go."""
        late.set()
        self._exit()

    def _exit(self) -> None:
        with contextlib.suppress(CommandError):
            if self._control.exists():
                self._ask("-O", "exit", timeout_s=5)

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")
        return ""

    def _lost(self) -> TunnelError:
        return failures.unreachable(self._login, "the connection was lost")


def open_link(login: Login, *, interactive: bool) -> OpenSSH:
    """Connect with the ssh program.

    Args:
        login: where to, and as whom.
        interactive: whether ssh may ask for passwords and new host keys on the terminal.

    Raises:
        TunnelError: the host or its key is not the one expected, or nobody let us in.
    """
    link = OpenSSH(login, _private_folder())
    try:
        link.start(interactive=interactive)
    except BaseException:
        link.close()
        raise
    return link


def _master_argv(login: Login, control: Path, log: Path, *, interactive: bool) -> list[str]:
    """Ssh takes the first value it meets: ours that protect, the user's, then our defaults."""
    ours = {
        "StrictHostKeyChecking": "ask" if interactive else "yes",
        "BatchMode": "no" if interactive else "yes",
        "ControlPersist": str(ORPHAN_S),
        "ClearAllForwardings": "yes",
        "ExitOnForwardFailure": "yes",
        "PermitLocalCommand": "no",
        "LogLevel": "INFO",
    }
    defaults = {
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": str(ALIVE_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    argv = ["ssh", "-f", "-N", "-M", "-a", "-x", "-S", str(control), "-E", str(log)]
    if login.config is not None:
        argv += ["-F", str(login.config)]
    if login.identity is not None:
        argv += ["-i", str(login.identity), "-o", "IdentitiesOnly=yes"]
    for key, value in (*ours.items(), *login.options, *defaults.items()):
        argv += ["-o", f"{key}={value}"]
    return [*argv, "--", str(login)]


def _private_folder() -> Path:
    """A 0700 folder with a path short enough for a socket."""
    parent = tempfile.gettempdir()
    return Path(
        tempfile.mkdtemp(prefix="hpc-", dir=parent if len(parent) < SOCKET_PATH_MAX else "/tmp")  # noqa: S108 - mkdtemp makes it private
    )


@contextlib.contextmanager
def _shown(log: Path, *, interactive: bool) -> Iterator[None]:
    """Show on the terminal what ssh writes while it asks the user things."""
    if not interactive:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_copy, args=(log, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _copy(log: Path, done: threading.Event) -> None:
    shown = 0
    while True:
        last = done.wait(0.1)
        with contextlib.suppress(OSError):
            text = log.read_text(errors="replace")
            sys.stderr.write(text[shown:])
            sys.stderr.flush()
            shown = len(text)
        if last:
            return
