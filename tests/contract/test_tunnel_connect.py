"""The Python interface and the command, over both transports, against a real sshd."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from hpc import own_source
from hpc.errors import TunnelError
from hpc.state import directory
from tests.fakes.login_node import KEY, LoginNode, free_port, listening, shared_node, until
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.tunnel.login import TransportName

COMMAND = [sys.executable, "-m", "hpc", "connect"]
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(
    running: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoginNode]:
    # The laptop's own folders, and proxies that must not see what goes to 127.0.0.1.
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "laptop"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    running.known()
    running.answer_well()
    # Short, as sockets need it: a long one is passed over for /tmp.
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield running
        until(lambda: not running.clients(), "no ssh process is left")
        assert not list(Path(folder).iterdir())
    assert not list((tmp_path / "laptop/connections").glob("*"))


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> TransportName:
    name: TransportName = request.param
    return name


def test_a_program_gets_models_and_clients(node: LoginNode, transport: TransportName) -> None:
    with node.connect(transport) as cluster:
        assert cluster.models() == ["demo"]
        with cluster.openai() as client:
            assert [model.id for model in client.models.list()] == ["demo"]
        with cluster.httpx() as plain:
            assert plain.get("/models").status_code == 200
        assert cluster.key == KEY
        assert repr(cluster) == f"<hpc.connect {cluster.login}: {cluster.base_url}, connected>"
        port = cluster.port
    assert repr(cluster).endswith("closed>")
    assert not listening(port)


@pytest.mark.parametrize("place", ["hpc-serve/bin", "tools/env/bin"])
def test_hpc_serve_is_found_where_the_readme_or_init_puts_it(node: LoginNode, place: str) -> None:
    usual, other = node.home / ".local/bin/hpc-serve", node.home / place / "hpc-serve"
    other.parent.mkdir(parents=True)
    usual.rename(other)
    recorded = node.home / ".config/hpc-serve" / own_source.BIN_PATH
    try:
        if place.startswith("tools"):
            with pytest.raises(TunnelError, match="not installed there for you"):
                node.connect("openssh")
            recorded.parent.mkdir(parents=True)
            recorded.write_text(f"{other.parent}\n")
        with node.connect("openssh") as cluster:
            assert cluster.models() == ["demo"]
    finally:
        other.unlink()
        recorded.unlink(missing_ok=True)


def test_the_key_is_kept_private_and_only_while_connected(
    node: LoginNode, transport: TransportName
) -> None:
    with node.connect(transport) as cluster:
        assert cluster.key_file.read_text() == f"{KEY}\n"
        assert cluster.key_file.stat().st_mode & 0o777 == 0o600
        assert cluster.key_file.parent.stat().st_mode & 0o777 == 0o700
        record = cluster.key_file.with_suffix(".json").read_text()
        assert KEY not in record
        assert json.loads(record)["port"] == cluster.port
    assert not cluster.key_file.exists()


def test_the_same_port_comes_back_after_the_node_did(
    node: LoginNode, transport: TransportName
) -> None:
    events: list[str] = []
    with node.connect(transport, on_event=lambda kind, _: events.append(kind)) as cluster:
        before = cluster.base_url
        node.stop()
        until(lambda: "down" in events, "the loss is told")
        until(lambda: "reconnecting" in repr(cluster), "the loss is seen")
        node.start()
        until(lambda: events[-1] == "up", "it is connected again")
        assert cluster.base_url == before
        assert cluster.models() == ["demo"]


def test_a_key_withdrawn_meanwhile_ends_the_connection(
    node: LoginNode, transport: TransportName
) -> None:
    authorized = node.folder / "authorized_keys"
    with node.connect(transport) as cluster:
        node.stop()
        authorized.write_text("")
        node.start()
        try:
            with pytest.raises(TunnelError, match="permission denied"):
                cluster.wait()
        finally:
            authorized.write_text((node.folder / "user.pub").read_text())


def test_a_port_held_by_another_connection_is_named_so(
    node: LoginNode, transport: TransportName
) -> None:
    port = free_port()
    with _command(node, transport, f"--port={port}", "--json") as process:
        _first_event(process)
        with pytest.raises(TunnelError) as caught:
            node.connect(transport, port=port)
        login = node.login()
        assert str(caught.value) == (
            f"port {port} of this machine is already in use "
            f"by hpc-serve connect {login} (process {process.pid})"
        )
        assert "--port" in str(caught.value.hint)
        _end(process, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ending_the_command_leaves_nothing(
    node: LoginNode, transport: TransportName, number: signal.Signals
) -> None:
    with _command(node, transport, "--port=0", "--json") as process:
        up = _first_event(process)
        key = Path(up["key_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{up['base_url']}/models"
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
        assert _end(process, number) == 0
    assert not listening(int(up["base_url"].split(":")[2].split("/")[0]))


def test_a_laptop_without_posix_connects(node: LoginNode) -> None:
    """What Windows lacks is taken away from Python; the rest is the product's own code."""
    argv = [sys.executable, "-m", "tests.fakes.posixless", "connect", *node.arguments()]
    argv += ["--transport=paramiko", "--port=0"]
    with subprocess.Popen([*argv, "--json"], stdout=subprocess.PIPE, text=True) as process:
        up = _first_event(process)
        key = Path(up["key_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{up['base_url']}/models"
        assert httpx.get(url, headers=headers, trust_env=False).status_code == 200
        assert _end(process, signal.SIGINT) == 0
    refused = subprocess.run([*argv, "--background"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--background does not work on Windows" in refused.stderr


def test_giving_up_while_connecting_leaves_nothing(
    node: LoginNode, transport: TransportName
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        login = node.login(options=(("Port", str(silent.getsockname()[1])), *node.options))
        pairs = [f"-o{key}={value}" for key, value in login.options]
        argv = [*COMMAND, "me@login", *pairs, f"--transport={transport}", "--port=0"]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            asked, _ = silent.accept()
            with asked:
                assert asked.recv(4) == b"SSH-"
                assert _end(process, signal.SIGINT) == 130


def test_killing_the_command_leaves_no_tunnel(node: LoginNode, transport: TransportName) -> None:
    with _command(node, transport, "--port=0", "--json") as process:
        up = _first_event(process)
        assert _end(process, signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not node.clients(), "ssh has left by itself")
    port = int(up["base_url"].split(":")[2].split("/")[0])
    assert not listening(port)
    # What a killed process could not remove is told apart from a live connection's.
    with node.connect(transport, port=port) as cluster:
        assert cluster.models() == ["demo"]
    left = list(Path(os.environ["TMPDIR"]).iterdir())
    assert len(left) == (1 if transport == "openssh" else 0)
    for path in left:
        assert path.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(path)


def test_the_lines_can_be_read_by_a_shell(node: LoginNode, transport: TransportName) -> None:
    with _command(node, transport, "--port=0") as process:
        assert process.stdout is not None
        lines = process.stdout.readline() + process.stdout.readline()
        assert KEY not in lines
        script = f'{lines}echo "$OPENAI_BASE_URL $OPENAI_API_KEY"'
        told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/v1 {KEY}\n", told.stdout)
        _end(process, signal.SIGINT)


def test_an_error_is_one_sentence_and_a_hint(node: LoginNode, transport: TransportName) -> None:
    node.known("stranger")
    argv = [*COMMAND, *node.arguments(), f"--transport={transport}", "--port=0"]
    done = subprocess.run(
        argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 7
    first, second = done.stderr.splitlines()
    assert first == "hpc-serve: the host key of login has changed, so nothing was sent to it"
    assert second.startswith("  somebody may be listening in")
    assert done.stdout == ""


def test_on_a_terminal_ssh_asks_about_a_new_host(node: LoginNode) -> None:
    node.known("")
    ours, theirs = pty.openpty()
    argv = ["setsid", "--ctty", *COMMAND, *node.arguments(), "--transport=openssh", "--port=0"]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        _read_until(ours, "continue connecting")
        os.write(ours, b"yes\n")
        said = _read_until(ours, "Ctrl-C closes")
        assert f"OPENAI_API_KEY={KEY}" in said
        os.write(ours, b"\x03")
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert f"[127.0.0.1]:{node.port}" in (node.folder / "known_hosts").read_text()


def test_importing_costs_nothing_until_it_is_used() -> None:
    script = (
        "import hpc, sys; heavy = {'paramiko', 'httpx', 'click', 'hpc.tunnel'};"
        "print(sorted(heavy & set(sys.modules)));"
        "hpc.connect; print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n['hpc.tunnel']\n"


def test_nothing_is_written_for_a_login_that_failed(
    node: LoginNode, transport: TransportName
) -> None:
    node.answer("exit 127")
    with pytest.raises(TunnelError, match="cannot run hpc-serve"):
        node.connect(transport)
    assert not list((directory.home() / "connections").glob("*"))


@pytest.mark.parametrize("name", ["curl.sh", "openai_chat.py", "httpx_chat.py"])
def test_the_examples_stream_through_the_tunnel(
    node: LoginNode, transport: TransportName, name: str
) -> None:
    question = 'What is a "login\\node"?'
    program = [sys.executable] if name.endswith(".py") else ["sh"]
    with node.connect(transport) as cluster:
        env = os.environ | {"OPENAI_BASE_URL": cluster.base_url, "OPENAI_API_KEY": cluster.key}
        argv = [*program, str(EXAMPLES / name), "demo", question]
        told = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    if name == "curl.sh":
        events = [json.loads(line[6:]) for line in told.stdout.splitlines() if line[6:7] == "{"]
        said = "".join(event["choices"][0]["delta"]["content"] for event in events)
    else:
        said = told.stdout.rstrip("\n")
    assert said == "demo|" + "".join(f"{word}|" for word in question.split(" "))


@contextlib.contextmanager
def _command(
    node: LoginNode, transport: TransportName, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    argv = [*COMMAND, *node.arguments(), f"--transport={transport}", *arguments]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _first_event(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    event: dict[str, str] = json.loads(process.stdout.readline())
    assert event["event"] == "up"
    return event


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes], number: int) -> int:
    process.send_signal(number)
    return process.wait(PATIENCE_S)


def _read_until(terminal: int, text: str) -> str:
    said = ""
    while text not in said:
        said += os.read(terminal, 4096).decode()
    return said
