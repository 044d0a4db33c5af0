"""A login node on this machine: a real sshd on loopback, a home of its own, and what answers there.

The sshd, its keys and the ssh that reaches it are real. The program `hpc-serve` on the node's PATH
and the HTTP server behind it stand for the other side of the tunnel.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import hpc
from hpc import peer_proof
from hpc.tunnel.login import Login
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from hpc.connection.connection import ClusterConnection

KEY = "sk-only-in-the-tunnel"
CHUNKS = 4
PROJECT = Path(__file__).parents[2]
WAIT_S = 60.0


def missing() -> str | None:
    """Say what this machine lacks for a login node, or None."""
    for name in ("sshd", "ssh", "ssh-keygen"):
        if program(name) is None:
            return f"{name} is not installed (Debian: openssh-server, openssh-client)"
    return None


def program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s:g} s, still not so: {what}"
        time.sleep(0.05)


def processes_with(text: str) -> list[str]:
    """Return the command lines of this machine that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line:
                found.append(line)
    return found


class Gateway(ThreadingHTTPServer):
    """Answers as a gateway would; each chunk of a stream waits until the client has the last."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.proof_secret = peer_proof.new_secret()
        if path is not None:
            self.address_family = socket.AF_UNIX
        super().__init__(path or ("127.0.0.1", 0), _Handler)  # type: ignore[arg-type]
        self.received = threading.Semaphore(0)
        self.together = threading.Barrier(1)
        self.open: list[Any] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        """Bind a port or a Unix socket, whose port is 0."""
        TCPServer.server_bind(self)
        self.server_port = 0 if self.path else self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.append(request)
        super().process_request(request, client_address)

    def leave(self) -> None:
        """End as a program does, with all its connections."""
        self.shutdown()
        self.server_close()
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)
        for request in self.open:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.shutdown()
        super().__exit__(kind, error, where)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._prove()
        elif self.headers["Authorization"] != f"Bearer {KEY}":
            self._send(401, {"error": {"message": "no such key"}})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "demo", "object": "model"}]})
        elif self.path == "/v1/together":
            self.server.together.wait(WAIT_S)
            self._send(200, {})
        else:
            self._stream()

    def _prove(self) -> None:
        place = None if self.server.path else self.connection.getsockname()[:2]
        challenge = self.headers[peer_proof.CHALLENGE]
        self.send_response(200)
        if challenge is not None:
            secret = self.server.proof_secret.encode()
            proof = peer_proof.prove_gateway(secret, place, challenge)
            self.send_header(peer_proof.PROOF, proof)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {KEY}" or body["stream"] is not True:
            self._send(401, {"error": {"message": "no such key"}})
            return
        # Says back what was asked, a word at a time.
        self._start_stream()
        for word in [body["model"], *body["messages"][0]["content"].split(" ")]:
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
            choice = {"index": 0, "delta": {"content": f"{word}|"}, "finish_reason": None}
            data = json.dumps(chunk | {"choices": [choice]})
            self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def _start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def _stream(self) -> None:
        self._start_stream()
        for number in range(CHUNKS):
            self.wfile.write(f"data: {number}\n\n".encode())
            if not self.server.received.acquire(timeout=WAIT_S):
                return
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@dataclass
class LoginNode:
    """A running sshd and the files on either side of it."""

    folder: Path
    port: int
    gateway: Gateway
    sshd: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def options(self) -> tuple[tuple[str, str], ...]:
        return (
            ("Port", str(self.port)),
            ("HostName", "127.0.0.1"),
            ("UserKnownHostsFile", str(self.folder / "known_hosts")),
            ("GlobalKnownHostsFile", "/dev/null"),
        )

    def login(self, **changes: object) -> Login:
        """Return who may log in, with the key that is let in."""
        fields: dict[str, object] = {
            "host": "login",
            "user": getpass.getuser(),
            "identity": self.folder / "user",
            "options": self.options,
            "config": self.folder / "ssh_config",
        }
        return Login(**(fields | changes))  # type: ignore[arg-type]

    def connect(self, transport: str, **changes: Any) -> ClusterConnection:
        """Open a tunnel to the node's gateway; further arguments are those of ``hpc.connect``."""
        login = self.login()
        options = {
            "identity": login.identity,
            "ssh_config": login.config,
            "ssh_options": tuple(f"{key}={value}" for key, value in login.options),
            "transport": transport,
        }
        return hpc.connect(str(login), **(options | changes))

    def arguments(self) -> list[str]:
        """Return what the command line needs to come in."""
        login = self.login()
        pairs = [f"--ssh-option={key}={value}" for key, value in login.options]
        return [str(login), f"--identity={login.identity}", f"--ssh-config={login.config}", *pairs]

    def clients(self) -> list[str]:
        """Return the command lines of ssh programs that lead here."""
        return [line for line in processes_with(f"Port={self.port}") if line.startswith("ssh ")]

    def start(self) -> None:
        """Start sshd and wait until it listens."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        sshd = program("sshd")
        assert sshd is not None
        with (self.folder / "sshd.log").open("ab") as log:
            argv = [sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.sshd = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL)
        until(lambda: listening(self.port), f"sshd listens: {self.said()}")

    def stop(self) -> None:
        """End sshd and the sessions it holds, as a reboot of the node would."""
        assert self.sshd is not None
        # Halted and killed, it takes no connection meanwhile: that session would outlive it.
        self.sshd.send_signal(signal.SIGSTOP)
        for child in self._children(self.sshd.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.sshd.kill()
        self.sshd.wait(WAIT_S)

    def said(self) -> str:
        return (self.folder / "sshd.log").read_text(errors="replace")

    def answer(self, script: str) -> None:
        """Put a program of this text onto the node's PATH as hpc-serve."""
        path = self.home / ".local/bin/hpc-serve"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A tunnel may ask at any moment, and half a program would answer wrongly for good.
        new = path.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.replace(path)

    def answer_well(self, gateway: Gateway | None = None, version: str = __version__) -> None:
        found = gateway or self.gateway
        reply = {"host": "127.0.0.1", "port": found.server_port, "key": KEY, "socket": found.path}
        line = json.dumps(reply | {"version": version, "proof_secret": found.proof_secret})
        relay = f'[ "$1" = relay ] && exec {sys.executable} -m hpc "$@"'
        version = '[ "$1" = --version ] && echo "hpc-serve, version 0.0.9" && exit'
        ensure = f'[ "$*" = "gateway ensure --json" ] || exit 2\necho starting\necho \'{line}\''
        self.answer(f"export PYTHONPATH={PROJECT}\n{relay}\n{version}\n{ensure}")

    def sessions(self) -> list[int]:
        """Return the processes that sshd has for those who are logged in."""
        assert self.sshd is not None
        found = self._children(self.sshd.pid)
        return [*found, *(below for pid in found for below in self._children(pid))]

    @contextlib.contextmanager
    def settings(self, text: str) -> Iterator[None]:
        """Run sshd with other settings for a while."""
        config = self.folder / "sshd_config"
        before = config.read_text()
        self.stop()
        config.write_text(f"{text}\n{before}")
        self.start()
        try:
            yield
        finally:
            self.stop()
            config.write_text(before)
            self.start()

    def known(self, key: str = "host") -> None:
        """Let the laptop know the host by one of the keys, or by none."""
        lines = []
        if key:
            kind, data = (self.folder / f"{key}.pub").read_text().split()[:2]
            lines = [f"[127.0.0.1]:{self.port} {kind} {data}\n"]
        (self.folder / "known_hosts").write_text("".join(lines))

    @staticmethod
    def _children(pid: int) -> list[int]:
        # /proc/PID/task/PID/children may leave out some while others end; see proc(5).
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children()]
        return []


@contextlib.contextmanager
def login_node(folder: Path) -> Iterator[LoginNode]:
    """Run a login node whose files lie in a folder."""
    with Gateway() as gateway:
        node = LoginNode(folder, free_port(), gateway)
        _write_files(node)
        node.start()
        try:
            yield node
        finally:
            node.stop()


@contextlib.contextmanager
def opened(node: LoginNode, home: Path, patch: pytest.MonkeyPatch) -> Iterator[LoginNode]:
    """Yield a shared node for one test, with a laptop's home of its own; no ssh is left after."""
    patch.setenv("HPC_SERVE_HOME", str(home))
    node.known()
    node.answer_well()
    yield node
    until(lambda: not node.clients(), "no ssh process is left")


def shared_node(factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    """Yield a login node for a module's tests; without sshd, skip them except in CI."""
    lacking = missing()
    if lacking:
        assert not os.environ.get("CI"), lacking
        pytest.skip(lacking)
    with login_node(factory.mktemp("node")) as node:
        yield node


def _write_files(node: LoginNode) -> None:
    folder = node.folder
    for name in ("host", "user", "stranger"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "ssh_config").write_text("")
    node.home.mkdir()
    (node.home / ".bash_profile").write_text('echo "Welcome to {the cluster}"\n')
    node.known()
    node.answer_well()
    settings = {
        "Port": node.port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "MaxStartups": "100",
        "SetEnv": f"HOME={node.home}",
    }
    text = "".join(f"{key} {value}\n" for key, value in settings.items())
    (folder / "sshd_config").write_text(text)
