"""One node: namespaces around a root file system, kept by one process that is its number 1."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from .host import FILES, CommandError, LabError, ProcessId, remove_tree, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Network = Literal["node", "host"]
USERS = {"owner": 2001, "neighbour": 2002}
USER_PATH = "/opt/hpc-serve/bin:/usr/local/bin:/usr/bin:/bin"
ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine that a node sees.

    Args:
        source: the path on this machine.
        target: the path on the node.
        writable: whether the node may write to it.
    """

    source: Path
    target: str
    writable: bool = False


class NodeProcess(subprocess.Popen[str]):
    """A command running on a node; signals reach the command, `kill_all` also what it started."""

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command itself."""
        child = None if self.poll() is not None else ProcessId.of(self.pid).child()
        if child is not None:
            os.kill(child, sig)

    def kill_all(self) -> None:
        """Kill the command and what it started in its session, reap it and close its pipes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


@dataclass(frozen=True)
class Node:
    """A node and the folder on this machine that holds its parts.

    Args:
        name: its host name.
        folder: where its upper layer, log and record lie.
        own_network: whether it has a network of its own, or shares the machine's.
        tied: whether it ends with the thread that starts it, even if that is killed.
    """

    name: str
    folder: Path
    own_network: bool = True
    tied: bool = False

    @property
    def record(self) -> Path:
        """The file that names the process which holds the namespaces."""
        return self.folder / "pid"

    def pid(self) -> int | None:
        """Return the number, on this machine, of the node's process 1, or None when it is down."""
        holder = ProcessId.read(self.record)
        return holder.child() if holder else None

    def prepare(self, files: Mapping[str, str | bytes], masked: Sequence[str] = ()) -> None:
        """Make the folder afresh, with files of the node's own.

        Args:
            files: path on the node to content.
            masked: paths of the root file system that this node must not have.
        """
        remove_tree(self.folder)
        for part in ("upper", "work", "root", "tmp", "vartmp"):
            (self.folder / part).mkdir(parents=True)
        for part in ("tmp", "vartmp"):
            (self.folder / part).chmod(0o1777)
        for path, content in files.items():
            file = self.folder / "upper" / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        for path in masked:
            file = self.folder / "upper" / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            os.mknod(file, 0o600 | 0o020000, os.makedev(0, 0))

    def start(self, rootfs: Path, binds: Sequence[Bind] = ()) -> None:
        """Start the node's process 1 and wait until its file systems are in place.

        Raises:
            LabError: it did not come up.
        """
        spaces = ["--mount", "--uts", "--ipc", "--pid", *(["--net"] if self.own_network else [])]
        # The kernel ends it with us, however we end: a session that is killed tidies nothing up.
        argv = ["setpriv", "--pdeathsig", "KILL", "--"] if self.tied else []
        argv += ["unshare", *spaces, "--fork", "--kill-child", "--", "bash"]
        argv += [str(FILES / "node-init"), self.name, str(rootfs), str(self.folder)]
        for bind in binds:
            argv += [str(bind.source), bind.target, "rw" if bind.writable else "ro"]
        ready, said = os.pipe()
        argv.insert(argv.index(self.name), str(said))
        log = self.folder / "init.log"
        os.set_inheritable(said, True)
        files = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        with os.fdopen(ready) as heard:
            # Not Popen, which would complain that the process outlives it.
            holder = os.posix_spawnp(argv[0], argv, os.environ, file_actions=files, setsid=True)
            ProcessId.of(holder).write(self.record)
            os.close(said)
            if heard.readline() != "ready\n":
                os.waitpid(holder, 0)
                msg = f"node {self.name} did not start: {log.read_text()}"
                raise LabError(msg)

    def stop(self) -> None:
        """Kill everything on the node; its mounts, links and namespaces go with it."""
        holder = ProcessId.read(self.record)
        first = holder.child() if holder else None
        if holder and first:
            os.kill(first, signal.SIGKILL)
        if holder:
            wait_until(lambda: not _running(holder), f"node {self.name} is gone", timeout=60)
        self.record.unlink(missing_ok=True)

    def enter(self, argv: Sequence[str], user: str, cwd: str | None, network: Network) -> list[str]:
        """Return the command for this machine that runs `argv` on the node.

        Raises:
            LabError: the node is down.
        """
        pid = self.pid()
        if pid is None:
            msg = f"node {self.name} is not up"
            raise LabError(msg)
        spaces = ["--mount", "--uts", "--ipc", "--pid", *(["--net"] if network == "node" else [])]
        nsenter = [shutil.which("nsenter") or "/usr/bin/nsenter", f"--target={pid}", *spaces]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        where = ["env", "-C", cwd or home_of(user)]
        return [*nsenter, "--root", "--wd", "--", *become, *where, *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str = "owner",
        env: Mapping[str, str] | None = None,
        network: Network = "node",
        cwd: str | None = None,
        stdin: int | IO[str] | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[str] | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[str] | IO[bytes] = subprocess.PIPE,
    ) -> NodeProcess:
        """Start a command on the node with a fresh environment and return at once.

        Args:
            argv: the command.
            user: the account it runs as.
            env: variables to add to those of a login.
            network: the node's own, or this machine's (which reaches the registries).
            cwd: folder on the node; the account's home when not given.
            stdin: as for `subprocess.Popen`.
            stdout: as for `subprocess.Popen`.
            stderr: as for `subprocess.Popen`.
        """
        return NodeProcess(
            self.enter(argv, user, cwd, network),
            env={**login_environment(user), **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 120,
        input: str | None = None,  # noqa: A002
        **options: object,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the node to its end.

        Args:
            argv: the command.
            check: raise when its exit status is not zero.
            timeout: seconds after which it and what it started are killed.
            input: what it reads; nothing when not given.
            options: as for `popen`.

        Raises:
            CommandError: it failed and `check` is set, or it ran out of time.
        """
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.popen(argv, **options)  # type: ignore[arg-type]
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill_all()
            texts = [_text(error.stdout), _text(error.stderr)]
            raise CommandError(argv, f"not done after {timeout:g} s", *texts) from error
        except BaseException:
            process.kill_all()
            raise
        if check and process.returncode:
            raise CommandError(argv, process.returncode, stdout or "", stderr or "")
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)


def home_of(user: str) -> str:
    """Return an account's home folder on any node."""
    return "/root" if user == "root" else f"/home/{user}"


def login_environment(user: str) -> dict[str, str]:
    """Return the variables that a login on a node starts with."""
    return {
        "HOME": home_of(user),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "PATH": USER_PATH if user in USERS else ROOT_PATH,
        "LANG": "C.UTF-8",
        **(users_environment() if user in USERS else {}),
    }


def users_environment() -> dict[str, str]:
    """Return what `$HPC_SERVE_LAB_ENV`, such as "A=1 B=2", adds to the users' environment."""
    words = os.environ.get("HPC_SERVE_LAB_ENV", "").split()
    return dict(word.split("=", 1) for word in words)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _running(holder: ProcessId) -> bool:
    """Say whether the process runs, reaping it when it was our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(holder.pid, os.WNOHANG)
    return holder.alive()
