"""Another user of the laptop puts a socket where a shared connection of ssh is looked for."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.tunnel import open_link, openssh, own_socket
from hpc.tunnel.transport import Route
from tests.fakes.login_node import LoginNode, shared_node, until
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.tunnel.login import Login

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
LISTEN = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.umask(0o077)
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("ready", flush=True)
while True:
    client, _ = sock.accept()
    print(client.recv(4096), flush=True)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(running: LoginNode) -> Iterator[LoginNode]:
    running.known()
    running.answer_well()
    yield running
    until(lambda: not running.clients(), "no ssh process is left")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a short path, below no folder but those of root."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as path:
        yield Path(path)


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen()
        yield


@contextmanager
def neighbour_at(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another user listen at a path, and print what comes."""
    argv = [sys.executable, "-I", "-c", LISTEN, str(path), str(NOBODY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_socket_of_ones_own_in_a_folder_of_ones_own_is_used(folder: Path) -> None:
    path = folder / "c"
    with listening(path):
        assert own_socket.own_path(path) == path
        (folder / "link").symlink_to(folder)
        assert own_socket.own_path(folder / "link/c") == path
        own_socket.connect(path).close()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_write_to_is_not_trusted(folder: Path, mode: int) -> None:
    """Wherever it is on the way, and behind whatever link; a sticky one is as good as /tmp."""
    (folder / "open/inner").mkdir(parents=True)
    (folder / "link").symlink_to(folder / "open/inner")
    path = folder / "open/inner/c"
    with listening(path):
        for loose in (folder / "open", folder / "open/inner"):
            loose.chmod(mode)
            for way in (path, folder / "link/c", folder / "open/../open/inner/c"):
                assert own_socket.own_path(way) is None, (loose, way)
            loose.chmod(mode | stat.S_ISVTX)
            assert own_socket.own_path(path) == path
            loose.chmod(0o700)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_socket_that_others_write_to_is_not_trusted(folder: Path, mode: int) -> None:
    path = folder / "c"
    with listening(path):
        path.chmod(mode)
        assert own_socket.own_path(path) is None


def test_what_is_no_socket_is_not_trusted(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "loop").symlink_to(folder / "loop")
    with listening(folder / "c"):
        (folder / "link").symlink_to(folder / "c")
        for name in ("file", "link", "loop", "loop/c", "missing", "missing/c"):
            assert own_socket.own_path(folder / name) is None, name


@as_root
def test_another_users_socket_or_folder_is_not_trusted(folder: Path) -> None:
    folder.chmod(0o1777)
    with neighbour_at(folder / "c"):
        assert own_socket.own_path(folder / "c") is None
        with pytest.raises(PermissionError, match="another user listens"):
            own_socket.connect(folder / "c")
    theirs = folder / "theirs"
    theirs.mkdir()
    with listening(theirs / "c"):
        assert own_socket.own_path(theirs / "c") is not None
        os.chown(theirs, NOBODY, NOBODY)
        for mode in (0o700, 0o1777):
            theirs.chmod(mode)
            assert own_socket.own_path(theirs / "c") is None


@as_root
def test_a_neighbours_socket_of_our_name_gets_nothing(folder: Path) -> None:
    """The kernel names the listener's user, whatever the file's owner and mode are."""
    folder.chmod(0o1777)
    with neighbour_at(folder / "c") as process:
        os.chown(folder / "c", 0, 0)
        with pytest.raises(PermissionError):
            own_socket.connect(folder / "c")
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() in ("", "b''\n")


def login_by(node: LoginNode, config: Path, control: Path) -> Login:
    lines = "".join(f"{key} {value}\n" for key, value in node.options)
    identity = f"IdentityFile {node.folder / 'user'}\n"
    config.write_text(f"Host cluster\nControlPath {control}\n{identity}{lines}")
    return node.login(host="cluster", identity=None, options=(), config=config)


@pytest.mark.parametrize("mode", [0o700, 0o777, 0o1777])
def test_a_shared_connection_is_borrowed_from_a_closed_folder_only(
    node: LoginNode, folder: Path, tmp_path: Path, mode: int
) -> None:
    (folder / "m").mkdir()
    (folder / "m").chmod(mode)
    config = tmp_path / "config"
    login = login_by(node, config, folder / "m/c")
    ssh = ["ssh", "-F", str(config)]
    subprocess.run([*ssh, "-MNf", "cluster"], check=True, stderr=subprocess.DEVNULL)
    accepted = node.said().count("Accepted publickey")
    try:
        link = open_link(login, transport="openssh", interactive=False, borrow=True)
        link.close()
        own = node.said().count("Accepted publickey") - accepted
        assert own == (1 if mode == 0o777 else 0)
        assert subprocess.run([*ssh, "-O", "check", "cluster"], check=False).returncode == 0
    finally:
        subprocess.run([*ssh, "-O", "exit", "cluster"], check=False)


@as_root
def test_a_neighbours_master_gets_no_byte(node: LoginNode, folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o1777)
    with neighbour_at(folder / "c") as process:
        login = login_by(node, tmp_path / "config", folder / "c")
        link = open_link(login, transport="openssh", interactive=False, borrow=True)
        try:
            assert link.run("echo here", timeout_s=PATIENCE_S).stdout == "here\n"
        finally:
            link.close()
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_the_tunnels_own_sockets_are_closed_to_others(node: LoginNode) -> None:
    link = openssh.open_link(node.login(), interactive=False)
    try:
        link.dial(Route(("127.0.0.1", node.gateway.server_port)), 15).close()
        seen = link._folder.stat()
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o700, os.getuid())
        sockets = [path for path in link._folder.iterdir() if path.is_socket()]
        assert len(sockets) == 2
        for path in sockets:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert own_socket.own_path(path) == path
    finally:
        link.close()


def test_a_shared_temporary_folder_is_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, used in ((0o777, False), (0o770, False), (0o1777, True), (0o700, True)):
        folder.chmod(mode)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        made = openssh._private_folder()
        try:
            assert made.is_relative_to(folder) is used
        finally:
            made.rmdir()
