"""The transport through the system's ssh: the user's configuration, agent, jump hosts and codes.

One master connection in a private folder serves the remote command and a forwarded Unix socket
beside it, so that a password or code is asked for once. The local port is not ssh's, as other users
could take it whenever ssh ends. This process holds a connection to the master's control socket, the
leash: the leash breaks when the master ends; and when this process dies, the master loses its last
connection, falls idle and leaves (``ControlPersist``).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import CommandError, TunnelError
from hpc.processes import by_pid, programs
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import openssh_control, own_socket, prompts, relay, stream_copy
from hpc.tunnel.transport import ALIVE_COUNT, ALIVE_S, CONNECT_S

if TYPE_CHECKING:
    import socket

    from hpc.processes.programs import Result
    from hpc.tunnel.login import Login
    from hpc.tunnel.stream_copy import Stream
    from hpc.tunnel.transport import Route

ORPHAN_S = 5
"""Seconds until an idle master without any connection leaves."""


def master(
    login: Login, control: Path, log: Path, *, interactive: bool, timeout_s: float = CONNECT_S
) -> list[str]:
    """Return the arguments for starting a master.

    ssh takes the first value of an option: protecting options come first, then the user's, then
    defaults.
    """
    # Forwards, agents and local commands of the user's configuration belong to the user's own
    # sessions: here they could take ports or fail the connection.
    ours = {
        "StrictHostKeyChecking": "ask" if interactive else "yes",
        "BatchMode": "no" if interactive else "yes",
        "ControlPersist": str(ORPHAN_S),
        "ClearAllForwardings": "yes",
        "ExitOnForwardFailure": "yes",
        "PermitLocalCommand": "no",
        "StreamLocalBindMask": "0177",
        "LogLevel": "INFO",
    }
    defaults = {
        "ConnectTimeout": str(round(timeout_s)),
        "ServerAliveInterval": str(ALIVE_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    argv = ["ssh", "-f", "-N", "-M", "-a", "-x", "-S", str(control), "-E", str(log)]
    ours_first = [word for key, value in ours.items() for word in ("-o", f"{key}={value}")]
    defaults_last = [word for key, value in defaults.items() for word in ("-o", f"{key}={value}")]
    return [*argv, *ours_first, *chosen(login, *defaults_last)]


def chosen(login: Login, *more: str) -> list[str]:
    """Return the arguments for the account and the user's settings of a login."""
    argv = ["-F", str(login.config)] if login.config is not None else []
    if login.identity is not None:
        argv += ["-i", str(login.identity), "-o", "IdentitiesOnly=yes"]
    for key, value in login.options:
        argv += ["-o", f"{key}={value}"]
    return [*argv, *more, "--", str(login)]


SOCKET_PATH_MAX = 60
"""Bytes of the folder's path: ssh appends 20, and macOS allows 104 bytes for a socket's path."""
SSH_FAILED = 255


class OpenSSH:
    """A master connection of the ssh program.

    Args:
        login: account and host.
        folder: a fresh private folder, removed at the end.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, login: Login, folder: Path) -> None:
        self._login = login
        self._folder = folder
        self._control = folder / "s"
        self._log = folder / "log"
        self._leash: socket.socket | None = None
        self._pid: int | None = None
        self._process = ""
        self._forwards: list[tuple[Path, tuple[str, int] | str]] = []
        self._lock = threading.Lock()

    def start(self, *, interactive: bool, borrow: bool, timeout_s: float) -> None:
        """Authenticate, then leave the master in the background.

        Raises:
            TunnelError: the host or its key is not the expected one, or the account was refused.
        """
        theirs = _shared_control(self._login) if borrow else None
        if theirs is None:
            self._authenticate(interactive=interactive, timeout_s=timeout_s)
        else:
            self._control = theirs
        try:
            self._leash = own_socket.connect(self._control)
            pid = openssh_control.master_pid(self._control)
        except (OSError, openssh_control.MuxError) as error:
            raise tunnel_errors.from_ssh(self._login, self._said()) from error
        self._leash.setblocking(False)
        # Without a pid, close() leaves the master running: it is the user's own.
        self._pid = pid if theirs is None else None
        self._process = by_pid.identity(pid) or ""

    def _authenticate(self, *, interactive: bool, timeout_s: float) -> None:
        argv = master(
            self._login, self._control, self._log, interactive=interactive, timeout_s=timeout_s
        )
        with prompts.shown(self._log, interactive=interactive):
            status = programs.run_attached(argv)
        if status != 0:
            raise tunnel_errors.from_ssh(self._login, self._said())

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a remote command line and return its output, whatever the exit status."""
        late = threading.Event()
        timer = threading.Timer(timeout_s, self._give_up, (late,))
        timer.start()
        try:
            result = self._ask("-T", command=command, timeout_s=None)
        finally:
            timer.cancel()
        if late.is_set():
            raise tunnel_errors.too_slow(self._login, timeout_s)
        if result.returncode == SSH_FAILED and not self.alive():
            raise tunnel_errors.from_ssh(self._login, self._said())
        return result

    def dial(self, way: Route, timeout_s: float) -> Stream:
        """Open a connection along a route."""
        try:
            if way.relay is None:
                return self._through_socket(way.to, timeout_s)
            return self._through_relay(way.relay, timeout_s)
        except (openssh_control.MuxError, CommandError) as error:
            raise ConnectionError(str(error)) from error

    def _through_socket(self, to: tuple[str, int] | str, timeout_s: float) -> socket.socket:
        """Connect through a socket in the private folder, which the master forwards."""
        # A short name: ssh appends 20 bytes, and the path of a socket is limited.
        path = self._folder / hashlib.sha256(repr(to).encode()).hexdigest()[:8]
        with self._lock:
            if not path.exists():
                openssh_control.open_forward(self._control, path, to)
                self._forwards.append((path, to))
        return own_socket.connect(path, timeout_s)

    def _through_relay(self, command: str, timeout_s: float) -> stream_copy.Pipes:
        pipes = stream_copy.Pipes(programs.converse(self._slave("-T", command=command)))
        try:
            stream_copy.skip_to(pipes, relay.MARK, timeout_s)
        except BaseException:
            pipes.close()
            raise
        return pipes

    def alive(self) -> bool:
        """Return whether the master still runs; the master's end breaks the leash."""
        if self._leash is None:
            return False
        try:
            while self._leash.recv(4096):
                pass
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def wait(self, timeout_s: float) -> None:
        """Wait for the master's end, at most a number of seconds."""
        if self._leash is not None:
            with contextlib.suppress(OSError, ValueError):
                select.select([self._leash], [], [], timeout_s)

    def close(self) -> None:
        """End the master, its channels and every process behind it."""
        if self._pid is None:
            self._give_back()
        else:
            self._exit()
        if self._leash is not None:
            self._leash.close()
        if self._pid is not None:
            by_pid.stop(self._process, grace_s=2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(
        self, *arguments: str, command: str | None = None, timeout_s: float | None = 15
    ) -> Result:
        """Run ssh against the master only: without configuration or a direct connection."""
        argv = self._slave(*arguments, command=command)
        return programs.run(argv, timeout_s=timeout_s, check=False)

    def _slave(self, *arguments: str, command: str | None = None) -> list[str]:
        argv = ["ssh", "-F", "/dev/null", "-S", str(self._control), "-o", "ControlMaster=no"]
        # Without a master, ssh would connect by itself: ProxyCommand=false makes that attempt fail.
        argv += ["-o", "ProxyCommand=false", *arguments, "--", "master"]
        return [*argv, command] if command is not None else argv

    def _give_up(self, late: threading.Event) -> None:
        """End the master, which holds a command's outputs: ending only ssh frees nothing."""
        late.set()
        if self._pid is not None:
            self._exit()

    def _give_back(self) -> None:
        """Remove our forwards from the user's own master."""
        for path, to in self._forwards:
            with contextlib.suppress(openssh_control.MuxError):
                openssh_control.close_forward(self._control, path, to)
        self._forwards.clear()

    def _exit(self) -> None:
        with contextlib.suppress(CommandError):
            if self._control.exists():
                self._ask("-O", "exit", timeout_s=5)

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")
        return ""


def open_link(
    login: Login, *, interactive: bool, borrow: bool = False, timeout_s: float = CONNECT_S
) -> OpenSSH:
    """Connect with the ssh program.

    Args:
        login: account and host.
        interactive: whether ssh may ask for passwords and new host keys on the terminal.
        borrow: use a connection that the user shares already (ControlPath), if up.
        timeout_s: seconds for the login node to answer.

    Raises:
        TunnelError: the host or its key is not the expected one, or the host refused the account.
    """
    link = OpenSSH(login, _private_folder())
    try:
        link.start(interactive=interactive, borrow=borrow, timeout_s=timeout_s)
    except BaseException:
        link.close()
        raise
    return link


def _shared_control(login: Login) -> Path | None:
    """Return the control socket of the user's own open master for this account, or None.

    A socket that another user could have put there is passed over: the key and all prompts would go
    through it.
    """
    found = programs.run(["ssh", "-G", *chosen(login)], check=False).stdout
    match = re.search(r"^controlpath (.+)$", found, re.MULTILINE)
    if match is None or match[1] == "none":
        return None
    path = own_socket.own_path(Path(match[1]))
    if path is None:
        return None
    try:
        openssh_control.master_pid(path)
    except openssh_control.MuxError:
        return None
    return path


def _private_folder() -> Path:
    """Return a new 0700 folder with a path short enough for a socket.

    Raises:
        TunnelError: other users could put a folder of their own in its place.
    """
    named = Path(tempfile.gettempdir()).resolve()
    short = len(str(named)) < SOCKET_PATH_MAX
    parent = named if short and own_socket.closed(named) else Path("/tmp")  # noqa: S108 - mkdtemp makes it private
    if not own_socket.closed(parent):
        raise TunnelError(
            f"other users of this machine could replace files in {parent}",
            hint="set TMPDIR to a folder of your own with a short path",
        )
    return Path(tempfile.mkdtemp(prefix="hpc-", dir=parent))
