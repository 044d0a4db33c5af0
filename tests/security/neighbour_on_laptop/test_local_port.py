"""Another user of the laptop tries to bind the tunnel's port all the time, whatever befalls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fakes.login_node import KEY, Gateway, LoginNode, opened, shared_node, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpc.connection.connection import ClusterConnection

NOBODY = 65534
CUTS = 4
GRAB = """
import os, socket, sys
port = int(sys.argv[1])
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
hosts, tries = ("127.0.0.1", "0.0.0.0", "127.0.0.1"), 0
print("ready", flush=True)
while True:
    for number, host in enumerate(hosts):
        tries += 1
        grabbed = socket.socket()
        grabbed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if number == 2:
            grabbed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            grabbed.bind((host, port))
            grabbed.listen()
        except OSError:
            grabbed.close()
            continue
        print("GRABBED after", tries, "tries", flush=True)
        client, _ = grabbed.accept()
        print(client.recv(4096), flush=True)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(
    running: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoginNode]:
    with opened(running, tmp_path / "laptop", monkeypatch) as node:
        yield node


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(node: LoginNode, transport: str, events: list[str]) -> ClusterConnection:
    return node.connect(transport, on_event=lambda kind, _: events.append(kind))


@contextmanager
def neighbour(port: int) -> Iterator[None]:
    """Let another user try to take a port all the time; it must never succeed."""
    argv = [sys.executable, "-I", "-c", GRAB, str(port), str(NOBODY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
            # Also after a failure, which the port's loss may have caused.
            assert process.stdout.read() == ""


@contextmanager
def asking(cluster: ClusterConnection) -> Iterator[list[int]]:
    """Send the key on new connections, as programs do that know nothing of the tunnel's state."""
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        while not done.is_set():
            try:
                got = httpx.get(f"{cluster.base_url}/models", headers=headers, trust_env=False)
                answers.append(got.status_code)
            except httpx.HTTPError:  # a cut ends the request that is being answered
                pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def answered(answers: list[int]) -> None:
    before = len(answers)
    until(lambda: len(answers) > before + 2, "requests are answered again")
    assert set(answers) <= {200, 503}


def test_the_port_is_kept_while_the_node_goes_and_comes(node: LoginNode, transport: str) -> None:
    events: list[str] = []
    with (
        connect(node, transport, events) as cluster,
        neighbour(cluster.port),
        asking(cluster) as answers,
    ):
        answered(answers)
        for _ in range(CUTS):
            seen = len(events)
            node.stop()
            try:
                until(lambda: "down" in events[seen:], "the loss is told")  # noqa: B023
            finally:
                node.start()
            until(lambda: "up" in events[seen:], "it is connected again")  # noqa: B023
            answered(answers)


def test_the_port_is_kept_while_the_gateway_moves(node: LoginNode, transport: str) -> None:
    events: list[str] = []
    with Gateway() as first, Gateway() as second:
        node.answer_well(first)
        with (
            connect(node, transport, events) as cluster,
            neighbour(cluster.port),
            asking(cluster) as answers,
        ):
            answered(answers)
            for old, new in ((first, second), (second, node.gateway)):
                seen = len(events)
                node.answer_well(new)
                old.leave()
                until(lambda: "moved" in events[seen:], "it is found again")  # noqa: B023
                answered(answers)


def test_the_port_is_kept_while_the_connection_is_killed(node: LoginNode, transport: str) -> None:
    """The ssh program by SIGKILL, paramiko's connection by the end of its socket."""
    events: list[str] = []
    with (
        connect(node, transport, events) as cluster,
        neighbour(cluster.port),
        asking(cluster) as answers,
    ):
        answered(answers)
        for _ in range(CUTS):
            seen = len(events)
            link = cluster._keeper.session.link
            if transport == "openssh":
                os.kill(link._pid, signal.SIGKILL)  # type: ignore[attr-defined]
            else:
                link._clients[0].get_transport().sock.close()  # type: ignore[attr-defined]
            until(lambda: "up" in events[seen:], "it is connected again")  # noqa: B023
            answered(answers)
