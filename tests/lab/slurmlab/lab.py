"""The lab: a login node, two compute nodes and an off-cluster laptop on this machine."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import boot, daemons, debian, gate, images, network, project, slurm
from .host import LabError, ProcessId, install_programs, locked, remove_tree, require_root
from .node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .node import Bind, NodeProcess

NODES = ("login", "c1", "c2", "laptop")


class Lab:
    """One lab; several can run side by side under different names.

    Args:
        name: which lab; `$HPC_SERVE_LAB_NAME`, else "default".
        root: folder of all labs and of what they share; `$HPC_SERVE_LAB_DIR`, else under /var/tmp.
        suite: the nodes' release of Debian; `$HPC_SERVE_LAB_SUITE`, else the stable one.
        tied: whether its nodes end with the thread that starts them, even if that is killed.

    Raises:
        LabError: there is no such suite.
    """

    def __init__(
        self,
        name: str | None = None,
        root: Path | None = None,
        suite: str | None = None,
        *,
        tied: bool = False,
    ) -> None:
        self.suite = debian.suite_named(
            suite or os.environ.get("HPC_SERVE_LAB_SUITE") or debian.DEFAULT_SUITE
        )
        self.name = name or os.environ.get("HPC_SERVE_LAB_NAME") or "default"
        default = os.environ.get("HPC_SERVE_LAB_DIR") or "/var/tmp/hpc-serve-lab"
        self.root = (root or Path(default)).absolute()
        self.cache = self.root / "cache"
        self.images = self.root / "images"
        self.folder = self.root / "labs" / self.name
        self.homes = self.folder / "home"
        self.laptop_homes = self.folder / "laptop-home"
        self.nodes = {name: Node(name, self.folder / "nodes" / name, tied=tied) for name in NODES}
        self._lock_depth = 0

    # Life of the lab

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing this lab; may be nested.

        Raises:
            LabError: another process holds the lab.
        """
        require_root()
        _own_folder(self.root)
        self._lock_depth += 1
        try:
            if self._lock_depth > 1:
                yield
            else:
                with locked(self.folder / "lock", f'the lab "{self.name}"'):
                    yield
        finally:
            self._lock_depth -= 1

    def held(self) -> bool:
        """Say whether another process keeps this lab from being changed."""
        try:
            with self.locked():
                return False
        except LabError:
            return True

    def build(self) -> Path:
        """Build the nodes' root file system unless it is there, and return its path."""
        with self.locked():
            install_programs()
            return debian.build_rootfs(self.cache, self.suite, self._rootfs_in_use())

    def up(self, *, accounting: bool = False) -> None:
        """Start the lab from a clean state, after clearing away what an earlier one left.

        Args:
            accounting: whether slurmdbd runs, so that sacct answers.
        """
        with self.locked():
            rootfs = self.build()
            self.down()
            try:
                boot.start(self, rootfs, accounting=accounting)
            except BaseException:
                self.down()
                raise

    def down(self) -> None:
        """Stop everything of the lab; logs and homes stay on disk until the next `up`."""
        with self.locked():
            for record in sorted((self.folder / "nodes").glob("*/pid")):
                Node(record.parent.name, record.parent).stop()

    def every(self) -> list[Lab]:
        """Return all labs of this lab's root folder, running or not."""
        names = sorted(path.name for path in self.root.glob("labs/*") if path.is_dir())
        return [Lab(name, self.root, self.suite.name) for name in names]

    def is_up(self) -> bool:
        """Say whether all four nodes run."""
        return all(node.pid() for node in self.nodes.values())

    def status(self) -> dict[str, str]:
        """Return, for each node, its process number and the daemons that run on it."""
        answer = {}
        for name, node in self.nodes.items():
            pid = node.pid()
            running = [d for d in daemons.DAEMONS if daemons.pid(node, d)] if pid else []
            answer[name] = f"up, process {pid}: {' '.join(running) or '-'}" if pid else "down"
        return answer

    def report(self) -> str:
        """Return what Slurm says of itself and the tail of its log, for looking into a failure."""
        try:
            return slurm.report(self.nodes["login"])
        except LabError as error:
            return str(error)

    # Commands and files on a node

    def run(
        self, node: str, argv: Sequence[str], **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node to its end; options as for `Node.run`."""
        return self._node(node).run(argv, **options)  # type: ignore[arg-type]

    def popen(self, node: str, argv: Sequence[str], **options: object) -> NodeProcess:
        """Start a command on a node and return at once; options as for `Node.popen`."""
        return self._node(node).popen(argv, **options)  # type: ignore[arg-type]

    def node_pid(self, node: str) -> int | None:
        """Return the number, on this machine, of a node's process 1, or None when it is down."""
        return self._node(node).pid()

    def write_file(
        self, path: str, content: str, owner: str = "owner", node: str = "login", mode: str = "644"
    ) -> None:
        """Write a file on a node as an account, making the folders it needs."""
        self._write(node, path, owner, mode, subprocess.PIPE, content)

    def copy_in(
        self, source: Path, path: str, owner: str = "owner", node: str = "login", mode: str = "644"
    ) -> None:
        """Copy a file of this machine to a path on a node, owned by an account."""
        with source.open("rb") as file:
            self._write(node, path, owner, mode, file, None)

    def copy_out(self, path: str, target: Path, owner: str = "owner", node: str = "login") -> None:
        """Copy a file that an account can read on a node to a path on this machine."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                self.run(node, ["cat", path], user=owner, stdout=file, timeout=600)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    # What goes wrong at real sites

    def start(self, node: str, daemon: str) -> None:
        """Start one of `daemons.DAEMONS` on a node."""
        daemons.start(self._node(node), daemon)

    def stop(self, node: str, daemon: str) -> None:
        """Stop a daemon on a node and wait until it is gone."""
        daemons.stop(self._node(node), daemon)

    def signal(self, node: str, daemon: str, sig: int) -> None:
        """Send a daemon a signal, such as SIGSTOP for a controller that hangs."""
        daemons.send_signal(self._node(node), daemon, sig)

    def cut(self, node: str = "laptop") -> None:
        """Take down a node's only network link; `restore` brings it back."""
        network.set_link(self._node(node), "down")

    def restore(self, node: str = "laptop") -> None:
        """Bring back the link that `cut` took down."""
        network.set_link(self._node(node), "up")

    @contextmanager
    def gate(self) -> Iterator[Node]:
        """Run a fifth node, a jump host; see `slurmlab.gate`."""
        with gate.gate(self) as node:
            yield node

    @contextmanager
    def sshd_settings(self, text: str) -> Iterator[None]:
        """Run login's sshd with settings that win over its own; sessions end at both changes."""
        path = "/etc/ssh/sshd_config.d/00-first.conf"
        self.write_file(path, text, "root")
        self.restart_sshd()
        try:
            yield
        finally:
            self.run("login", ["rm", path], user="root")
            self.restart_sshd()

    def restart_sshd(self) -> None:
        """Restart login's sshd, and end the sessions that it holds."""
        self.end_sessions()
        self.stop("login", "sshd")
        self.start("login", "sshd")

    def end_sessions(self, sig: str = "KILL") -> None:
        """Send a signal to the processes that login's sshd has for those who are logged in."""
        # Each has a process with rights, and below it one with none that holds the connection.
        script = (
            "first=$(ps --ppid $(cat /run/sshd.pid) -o pid= | xargs | tr ' ' ,);"
            '[ -z "$first" ] || ps --pid $first --ppid $first -o pid= | xargs -r kill -$0'
        )
        self.run("login", ["sh", "-c", script, sig], user="root", check=False)

    def set_accounting(self, *, on: bool) -> None:
        """Turn Slurm's accounting on or off while the lab runs; does nothing when it is so."""
        if on != (daemons.pid(self.nodes["login"], "slurmdbd") is not None):
            slurm.switch_accounting(self.nodes, accounting=on)

    def wait_idle(self, timeout: float = 120) -> None:
        """Wait until no job runs or ends on either compute node."""
        slurm.wait_idle(self.nodes["login"], timeout)

    # The project

    def install_project(
        self,
        wheel: Path,
        *,
        extras: Sequence[str] = (),
        packages: Sequence[str] = (),
        constraints: Path | None = None,
    ) -> bool:
        """Install a wheel for all nodes at /opt/hpc-serve; quick when it is there already.

        Args:
            wheel: the built project.
            extras: its extras to install.
            packages: further requirements.
            constraints: pip constraints file, of which the versions are used and hashes are not.

        Returns:
            Whether anything had to be installed.
        """
        wanted = project.Wanted(wheel, tuple(extras), tuple(packages), constraints)
        with self.locked():
            return project.install(self, wanted)

    def base_image(self, suite: str) -> str:
        """Build a Debian base image for Apptainer unless it is there; see `images.base_image`."""
        with self.locked():
            self.images.mkdir(exist_ok=True)
            return images.base_image(self, suite)

    @contextmanager
    def workshop(self, name: str, binds: Sequence[Bind] = ()) -> Iterator[Node]:
        """Run a passing node that shares this machine's network, for what needs registries."""
        node = Node(
            name, self.folder / "nodes" / f"{name}-{os.getpid()}", own_network=False, tied=True
        )
        with self.locked():
            rootfs = self.build()
            try:
                boot.start_workshop(node, rootfs, binds)
                yield node
            finally:
                node.stop()
                remove_tree(node.folder)

    def _node(self, name: str) -> Node:
        if name not in self.nodes:
            msg = f"no node {name}; there are {', '.join(self.nodes)}"
            raise LabError(msg)
        return self.nodes[name]

    def _write(
        self, node: str, path: str, user: str, mode: str, source: int | IO[bytes], text: str | None
    ) -> None:
        script = 'mkdir -p "$(dirname "$0")" && umask 077 && cat > "$0" && chmod "$1" "$0"'
        argv = ["sh", "-c", script, path, mode]
        self.run(node, argv, user=user, stdin=source, input=text, timeout=600)

    def _rootfs_in_use(self) -> frozenset[Path]:
        """Return what root file systems the running nodes of all labs stand on."""
        records = [ProcessId.read(path) for path in self.root.glob("labs/*/nodes/*/pid")]
        commands = [
            Path(f"/proc/{record.pid}/cmdline").read_bytes().decode().split("\0")
            for record in records
            if record and record.alive()
        ]
        return frozenset(Path(word) for words in commands for word in words if word)


def _own_folder(path: Path) -> None:
    """Make a folder that only root can have made, for it may lie where anybody can write."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != 0:
        msg = f"{path} is not a folder of root's own"
        raise LabError(msg)
    # Nodes hold passwords of this machine's pip and apt, which other users here may not read.
    path.chmod(0o700)
