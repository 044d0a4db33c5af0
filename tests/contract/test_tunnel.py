"""One suite over both transports, against a real sshd."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import httpx
import pytest

from hpc.errors import TunnelError
from hpc.tunnel import Unreachable, open_link
from hpc.tunnel.discovery import ensure_gateway
from hpc.tunnel.gateway_dialer import GatewayDialer
from hpc.tunnel.local_port import LocalPort
from hpc.tunnel.transport import Route
from tests.fakes.login_node import (
    CHUNKS,
    KEY,
    LoginNode,
    free_port,
    listening,
    shared_node,
    until,
)
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpc.tunnel.login import TransportName
    from hpc.tunnel.transport import Transport

HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(running: LoginNode) -> LoginNode:
    running.known()
    running.answer_well()
    return running


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> TransportName:
    name: TransportName = request.param
    return name


@pytest.fixture
def link(node: LoginNode, transport: TransportName) -> Iterator[Transport]:
    opened = open_link(node.login(), transport=transport, interactive=False)
    yield opened
    opened.close()


@pytest.fixture
def client(link: Transport, node: LoginNode) -> Iterator[httpx.Client]:
    with closing(LocalPort(0, patience_s=PATIENCE_S)) as port:
        port.lead(dialer(link, node))
        url = f"http://127.0.0.1:{port.port}/v1"
        with httpx.Client(
            base_url=url, headers=HEADERS, trust_env=False, timeout=PATIENCE_S
        ) as opened:
            yield opened


def dialer(link: Transport, node: LoginNode) -> GatewayDialer:
    way = Route(("127.0.0.1", node.gateway.server_port))
    return GatewayDialer(link, way, node.gateway.proof_secret)


def test_runs_a_command_and_tells_its_outputs_and_status_apart(link: Transport) -> None:
    result = link.run("echo out; echo err >&2; exit 3", timeout_s=PATIENCE_S)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)


def test_a_command_that_hangs_is_given_up(link: Transport) -> None:
    began = time.monotonic()
    with pytest.raises(Unreachable, match="did not end within"):
        link.run("sleep 240", timeout_s=0.5)
    assert time.monotonic() - began < 120, "the command was waited for"


def test_finds_the_gateway_behind_a_banner(link: Transport, node: LoginNode) -> None:
    gateway = ensure_gateway(link, node.login(), remote_command="hpc-serve")
    assert (gateway.host, gateway.port) == ("127.0.0.1", node.gateway.server_port)
    assert gateway.key == KEY
    assert KEY not in repr(gateway)


def test_forwards_requests(client: httpx.Client) -> None:
    assert client.get("/models").json()["data"][0]["id"] == "demo"
    assert client.get("/models", headers={"Authorization": "Bearer other"}).status_code == 401


def test_a_stream_arrives_chunk_by_chunk(client: httpx.Client, node: LoginNode) -> None:
    # The server sends a chunk only after the one before was seen here: buffering would hang.
    seen = []
    with client.stream("GET", "/stream") as response:
        for line in response.iter_lines():
            if line:
                seen.append(line)
                node.gateway.received.release()
    assert seen == [f"data: {number}" for number in range(CHUNKS)]


def test_requests_run_side_by_side(client: httpx.Client, node: LoginNode) -> None:
    # Each answer waits until all have arrived at the server.
    count = 24
    node.gateway.together = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        answers = pool.map(lambda _: client.get("/together").status_code, range(count))
        assert list(answers) == [200] * count


def test_the_local_end_is_on_loopback_only(link: Transport, node: LoginNode) -> None:
    with closing(LocalPort(0, patience_s=PATIENCE_S)) as port:
        end = f":{port.port:04X}"
        steps: tuple[Callable[[], object], ...] = (
            lambda: port.lead(dialer(link, node)),
            port.hold,
        )
        for step in steps:
            step()
            bound = [line.split()[1] for line in _tcp_listeners() if line.split()[1].endswith(end)]
            assert bound == [f"0100007F{end}"]


def test_a_port_in_use_is_named(node: LoginNode) -> None:
    with pytest.raises(TunnelError, match=f"port {node.port} of this machine is already in use"):
        LocalPort(node.port, patience_s=PATIENCE_S)


def test_closing_leaves_no_port_and_no_process(node: LoginNode, transport: TransportName) -> None:
    opened = open_link(node.login(), transport=transport, interactive=False)
    port = LocalPort(0, patience_s=PATIENCE_S)
    port.lead(dialer(opened, node))
    assert listening(port.port)
    assert bool(node.clients()) == (transport == "openssh")
    port.close()
    opened.close()
    assert not listening(port.port)
    assert not opened.alive()
    until(lambda: not node.clients(), "no ssh process of ours is left")
    opened.close()


def test_a_dead_sshd_is_noticed(node: LoginNode, transport: TransportName) -> None:
    opened = open_link(node.login(), transport=transport, interactive=False)
    try:
        assert opened.alive()
        node.stop()
        until(lambda: not opened.alive(), "the link sees its end")
        with pytest.raises(Unreachable):
            opened.run("true", timeout_s=PATIENCE_S)
    finally:
        opened.close()
        node.start()


def test_an_unknown_host_is_refused(node: LoginNode, transport: TransportName) -> None:
    node.known("")
    with pytest.raises(TunnelError, match="host key of login is not known") as caught:
        open_link(node.login(), transport=transport, interactive=False)
    assert "fingerprint" in str(caught.value.hint)
    assert not node.clients()


def test_a_changed_host_key_is_refused_whatever_the_options_say(
    node: LoginNode, transport: TransportName
) -> None:
    node.known("stranger")
    before = node.said().count("Accepted publickey")
    login = node.login(options=(("StrictHostKeyChecking", "no"), *node.options))
    with pytest.raises(TunnelError, match="host key of login has changed"):
        open_link(login, transport=transport, interactive=False)
    assert node.said().count("Accepted publickey") == before
    assert not node.clients()


def test_a_key_that_is_not_authorised_is_refused(node: LoginNode, transport: TransportName) -> None:
    login = node.login(identity=node.folder / "stranger")
    with pytest.raises(TunnelError, match=r"permission denied by \S+@login") as caught:
        open_link(login, transport=transport, interactive=False)
    assert not isinstance(caught.value, Unreachable)


def test_a_closed_port_is_unreachable(node: LoginNode, transport: TransportName) -> None:
    login = node.login(options=(("Port", str(free_port())), *node.options))
    with pytest.raises(Unreachable, match="cannot reach login: Connection refused"):
        open_link(login, transport=transport, interactive=False)


def test_a_name_that_does_not_resolve_is_told(node: LoginNode, transport: TransportName) -> None:
    login = node.login(host="nowhere.invalid", options=())
    with pytest.raises(Unreachable, match=r"cannot find a host named nowhere\.invalid"):
        open_link(login, transport=transport, interactive=False)


def test_the_ssh_configuration_is_read(node: LoginNode, transport: TransportName) -> None:
    lines = [f"{key} {value}\n" for key, value in node.options]
    config = node.folder / "sections"
    config.write_text(f"Host cluster\nIdentityFile {node.folder / 'user'}\n{''.join(lines)}")
    login = node.login(host="cluster", identity=None, options=(), config=config)
    opened = open_link(login, transport=transport, interactive=False)
    try:
        assert opened.run("echo here", timeout_s=PATIENCE_S).stdout == "here\n"
    finally:
        opened.close()


def test_a_jump_host_is_passed(node: LoginNode, transport: TransportName) -> None:
    """The node is its own jump host, so it lets us in twice."""
    lines = "".join(f"{key} {value}\n" for key, value in node.options)
    config = node.folder / "jumps"
    common = f"IdentityFile {node.folder / 'user'}\n{lines}"
    config.write_text(f"Host cluster\nProxyJump gate\n{common}Host gate\n{common}")
    login = node.login(host="cluster", identity=None, options=(), config=config)
    before = node.said().count("Accepted publickey")
    opened = open_link(login, transport=transport, interactive=False)
    try:
        assert opened.run("echo here", timeout_s=PATIENCE_S).stdout == "here\n"
        assert node.said().count("Accepted publickey") == before + 2
    finally:
        opened.close()
    until(lambda: not node.clients(), "no ssh process of ours is left")


@pytest.mark.parametrize(
    ("script", "sentence", "hint"),
    [
        ("exit 127", "cannot run hpc-serve on login", "there as here, from "),
        ("echo hello", "did not say where its gateway listens", "there as here, from "),
        (
            "echo warning >&2; echo 'hpc-serve: no free port' >&2; exit 8",
            "the gateway on login did not start: no free port",
            "hpc-serve gateway ensure",
        ),
    ],
)
def test_a_gateway_that_does_not_come_is_explained(
    link: Transport, node: LoginNode, script: str, sentence: str, hint: str
) -> None:
    node.answer(script)
    with pytest.raises(TunnelError, match=sentence) as caught:
        ensure_gateway(link, node.login(), remote_command="hpc-serve")
    assert hint in str(caught.value.hint)


def test_a_missing_program_is_told_with_how_to_install_it(link: Transport, node: LoginNode) -> None:
    with pytest.raises(TunnelError, match="cannot run no-such-hpc-serve on login"):
        ensure_gateway(link, node.login(), remote_command="no-such-hpc-serve")


def _tcp_listeners() -> list[str]:
    with open("/proc/net/tcp") as four:  # noqa: PTH123
        lines = four.read().splitlines()[1:]
    return [line for line in lines if line.split()[3] == "0A"]
