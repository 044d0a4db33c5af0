"""What befalls a tunnel while it is open, over both transports, against a real sshd."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

import hpc
from hpc.errors import TunnelError
from tests.fakes.login_node import KEY, Gateway, LoginNode, free_port, opened, shared_node, until
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpc.connection.connection import ClusterConnection

COMMAND = [sys.executable, "-m", "hpc", "connect"]
WAYS = ["openssh", "paramiko", "openssh relay", "paramiko relay"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(
    running: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoginNode]:
    with opened(running, tmp_path / "laptop", monkeypatch) as node:
        yield node


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(node: LoginNode, way: str, events: list[str] | None = None) -> ClusterConnection:
    transport, _, relay = way.partition(" ")
    told: list[str] = [] if events is None else events
    return node.connect(
        transport,
        relay=bool(relay),
        patience=PATIENCE_S,
        on_event=lambda kind, text: told.append(f"{kind}: {text}"),
    )


def told(events: list[str], kind: str) -> bool:
    return any(event.startswith(f"{kind}:") for event in events)


def test_every_way_carries_requests(node: LoginNode, way: str) -> None:
    with connect(node, way) as cluster:
        assert cluster.models() == ["demo"]
        assert ("through a relay" in cluster.way) == way.endswith("relay")


def test_a_gateway_that_moved_is_followed_on_the_same_port(node: LoginNode, way: str) -> None:
    events: list[str] = []
    with Gateway() as first, connect_to(node, first, way, events) as cluster:
        url = cluster.base_url
        assert cluster.models() == ["demo"]
        node.answer_well()
        first.leave()
        until(lambda: told(events, "moved"), "the gateway is found again")
        assert cluster.base_url == url
        assert cluster.models() == ["demo"]
        assert str(node.gateway.server_port) in cluster.way
    assert not told(events, "failed")


@contextmanager
def connect_to(
    node: LoginNode, gateway: Gateway, way: str, events: list[str]
) -> Iterator[ClusterConnection]:
    node.answer_well(gateway)
    with connect(node, way, events) as cluster:
        yield cluster


def test_requests_wait_while_the_node_is_away(node: LoginNode, way: str) -> None:
    """Asked while there is no connection, answered when there is one again."""
    events: list[str] = []
    answers: list[object] = []
    with connect(node, way, events) as cluster:
        node.stop()
        until(lambda: told(events, "down"), "the loss is told")
        asker = threading.Thread(target=lambda: answers.append(cluster.models()))
        asker.start()
        asker.join(0.5)
        assert asker.is_alive()
        node.start()
        asker.join(PATIENCE_S)
        assert answers == [["demo"]]


def test_patience_ends_with_an_answer(node: LoginNode, way: str) -> None:
    events: list[str] = []
    with connect(node, way, events) as cluster:
        cluster._port._patience_s = 0.5
        node.stop()
        try:
            until(lambda: told(events, "down"), "the loss is told")
            answer = httpx.get(f"{cluster.base_url}/models", trust_env=False, timeout=PATIENCE_S)
        finally:
            node.start()
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert "down" in answer.json()["error"]["message"]


def test_nobody_can_take_the_port_meanwhile(node: LoginNode, way: str) -> None:
    events: list[str] = []
    with connect(node, way, events) as cluster:
        node.stop()
        try:
            until(lambda: told(events, "down"), "the loss is told")
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", cluster.port))
        finally:
            node.start()


def test_a_connection_that_fell_silent_is_replaced(node: LoginNode, way: str) -> None:
    """The session's processes are stopped, which no reset tells: only silence does."""
    events: list[str] = []
    with connect(node, way, events) as cluster:
        silenced = node.sessions()
        for pid in silenced:
            os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: told(events, "up"), "a new connection took over")
            assert cluster.models() == ["demo"]
        finally:
            for pid in silenced:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("transport", ["openssh", "paramiko"])
def test_where_forwarding_is_forbidden_the_relay_is_found(node: LoginNode, transport: str) -> None:
    with node.settings("DisableForwarding yes"), connect(node, transport) as cluster:
        assert "through a relay" in cluster.way
        assert cluster.models() == ["demo"]
        with cluster.httpx() as client, client.stream("GET", "/stream") as response:
            seen = []
            for line in response.iter_lines():
                if line:
                    seen.append(line)
                    node.gateway.received.release()
        assert len(seen) == 4


def test_a_connection_that_is_open_already_is_shared(node: LoginNode, tmp_path: Path) -> None:
    """A user's own master is used, and stays when we leave."""
    control = tmp_path / "c"
    config = tmp_path / "config"
    lines = [f"{key} {value}\n" for key, value in node.options]
    identity = f"IdentityFile {node.folder / 'user'}\n"
    config.write_text(f"Host cluster\nControlPath {control}\n{identity}{''.join(lines)}")
    ssh = ["ssh", "-F", str(config)]
    subprocess.run([*ssh, "-MNf", "cluster"], check=True, stderr=subprocess.DEVNULL)
    try:
        accepted = node.said().count("Accepted publickey")
        with hpc.connect("cluster", ssh_config=config, transport="openssh") as cluster:
            assert cluster.models() == ["demo"]
            port = cluster.port
        assert node.said().count("Accepted publickey") == accepted
        assert subprocess.run([*ssh, "-O", "check", "cluster"], check=False).returncode == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    finally:
        subprocess.run([*ssh, "-O", "exit", "cluster"], check=False)


def test_the_asynchronous_one_does_the_same(node: LoginNode) -> None:
    login = node.login()
    options = tuple(f"{key}={value}" for key, value in login.options)

    async def use() -> None:
        opening = hpc.aconnect(
            str(login), identity=login.identity, ssh_config=login.config, ssh_options=options
        )
        async with opening as cluster:
            assert await cluster.models() == ["demo"]
            assert "hpc.aconnect" in repr(cluster)
            async with cluster.openai() as client:
                assert [model.id async for model in client.models.list()] == ["demo"]

    asyncio.run(use())


def test_the_background_is_entered_seen_and_left(node: LoginNode) -> None:
    port = free_port()
    argv = [*COMMAND, *node.arguments(), f"--port={port}", "--background", "--env"]
    try:
        lines = ask(argv)
        assert f"export OPENAI_BASE_URL=http://127.0.0.1:{port}/v1\n" in lines
        assert f"export OPENAI_API_KEY={KEY}\n" in lines
        assert ask(argv) == lines, "a second time, the same one"
        (status,) = json.loads(ask([*COMMAND, "--status", "--json"]))
        assert (status["state"], status["background"]) == ("up", True)
        assert os.getsid(status["pid"]) == status["pid"], "it left the terminal"
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
    finally:
        ended = ask([*COMMAND, "--stop"])
    assert ended == f"the tunnel to {node.login()} is closed\n"
    assert ask([*COMMAND, "--status"]) == "no tunnel is open on this machine\n"


def test_a_program_runs_with_the_variables(node: LoginNode) -> None:
    script = 'echo "$OPENAI_BASE_URL $OPENAI_API_KEY $OPENAI_MODEL"; exit 5'
    argv = [*COMMAND, *node.arguments(), "--port=0", "--model=demo", "--exec", "--"]
    done = subprocess.run([*argv, "sh", "-c", script], capture_output=True, text=True, check=False)
    url, key, model = done.stdout.split()
    assert (done.returncode, key, model) == (5, KEY, "demo")
    assert url.startswith("http://127.0.0.1:")


def test_a_program_asks_no_web_proxy_for_the_gateway(
    node: LoginNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "site.example")
    script = (
        "import openai, os; print(openai.OpenAI().models.list().data[0].id, os.environ['NO_PROXY'])"
    )
    argv = [*COMMAND, *node.arguments(), "--port=0", "--exec", "--", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["demo", "site.example,127.0.0.1,localhost"], done.stderr


def test_a_model_that_is_not_served_is_named(node: LoginNode) -> None:
    argv = [*COMMAND, *node.arguments(), "--port=0", "--model=other"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == TunnelError.exit_code
    first, hint = done.stderr.splitlines()
    assert first.endswith("no model other is served on " + str(node.login()) + ": there is demo")
    assert hint.strip() == "on the login node: hpc-serve submit other"


def test_another_version_there_is_said_once(node: LoginNode) -> None:
    node.answer_well(version="9.9")
    events: list[str] = []
    with connect(node, "openssh", events) as cluster:
        assert cluster.models() == ["demo"]
    notes = [event for event in events if event.startswith("note:")]
    assert len(notes) == 1
    assert f"{hpc.__version__} here and 9.9 on login" in notes[0]


def test_two_laptops_at_once_share_one_gateway(node: LoginNode) -> None:
    with connect(node, "openssh") as one, connect(node, "paramiko") as other:
        assert one.port != other.port
        assert one.models() == other.models() == ["demo"]


def ask(argv: list[str]) -> str:
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, (time.monotonic() - began, done.stderr)
    return done.stdout
