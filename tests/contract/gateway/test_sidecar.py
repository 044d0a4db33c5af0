"""The sidecar: the only door of a replica, which closes in good order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.processes import by_pid
from tests.contract.gateway.engines import Engine, frame, serve
from tests.contract.gateway.programs import (
    BODY,
    PATIENCE_S,
    REPO,
    Running,
    environment,
    run_sidecar,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPEN = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/rerank"),
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]
CLOSED = [
    ("POST", "/invocations"),
    ("POST", "/pause"),
    ("POST", "/tokenize"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/chat/completions/"),
    ("POST", "/v1/../invocations"),
    ("POST", "/v1/chat%2fcompletions%2f..%2f..%2fpause"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/v1/chat/completions"),
    ("DELETE", "/v1/models"),
    ("OPTIONS", "/v1/models"),
]
LONG_DRAIN = ("--drain-timeout", "600")
"""More than the patience of a test: what ends in time has not waited for its streams."""


@pytest.fixture
def unix(tmp_path: Path, engine: Engine) -> Iterator[str]:
    with serve(engine, tmp_path / "engine.sock") as path:
        yield path


@pytest.fixture(params=["plain", "TLS"])
def sidecar(request: Any, tmp_path: Path, unix: str) -> Iterator[Running]:
    with run_sidecar(tmp_path, ["--upstream-unix", unix], tls=request.param == "TLS") as running:
        yield running


def test_the_paths_a_gateway_uses_are_open(sidecar: Running, engine: Engine) -> None:
    with sidecar.client() as client:
        for method, path in OPEN:
            answer = client.request(method, path, json=BODY if method == "POST" else None)
            assert (answer.status_code, engine.seen[-1].path) == (200, path)


def test_all_other_paths_are_closed(sidecar: Running, engine: Engine) -> None:
    for method, path in CLOSED:
        with sidecar.connect() as sock:
            sock.sendall(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\n"
                "connection: close\r\ncontent-length: 0\r\n\r\n".encode()
            )
            answer = b"".join(iter(partial(sock.recv, 65536), b""))
        assert answer.startswith(b"HTTP/1.1 404 "), (method, path)
    assert engine.seen == []


@pytest.mark.parametrize("token", ["", "the-secret"])
def test_nothing_is_open_without_the_proof(
    tmp_path: Path, unix: str, engine: Engine, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}".strip()}
    with run_sidecar(tmp_path, ["--upstream-unix", unix]) as sidecar:
        for method, path in [*OPEN, *CLOSED[:3], ("GET", "/healthz")]:
            answer = httpx.request(method, sidecar.url + path, headers=headers, trust_env=False)
            assert answer.status_code == 401
    assert engine.seen == []


def test_the_engine_gets_its_own_key(tmp_path: Path, unix: str, engine: Engine) -> None:
    engine.secret = "engine-key"
    more = ("--engine-key-env", "ENGINE_KEY")
    with run_sidecar(tmp_path, ["--upstream-unix", unix], *more) as sidecar:
        assert sidecar.post({}).status_code == 200
    assert sidecar.key not in str(engine.seen[-1].headers)


def test_it_speaks_to_a_port_too(tmp_path: Path, engine: Engine) -> None:
    with serve(engine) as url:
        port = url.rpartition(":")[2]
        with run_sidecar(tmp_path, ["--upstream-port", port]) as sidecar:
            assert sidecar.post({}).status_code == 200


def test_an_engine_that_is_gone_is_a_502(tmp_path: Path) -> None:
    with run_sidecar(tmp_path, ["--upstream-unix", str(tmp_path / "none.sock")]) as sidecar:
        answer = sidecar.post({})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


def test_nothing_under_way_means_it_ends_at_once(tmp_path: Path, unix: str) -> None:
    with (
        run_sidecar(tmp_path, ["--upstream-unix", unix], *LONG_DRAIN) as sidecar,
        sidecar.client() as client,
        socket.create_connection(("127.0.0.1", sidecar.port)),
    ):
        assert client.post("/v1/completions", json=BODY).status_code == 200
        assert sidecar.terminate() == 0


def test_it_finishes_its_streams_and_refuses_new_work(sidecar: Running, engine: Engine) -> None:
    body = {"stream": True, "hold": True}
    with (
        sidecar.client() as client,
        client.stream("POST", "/v1/chat/completions", json={**BODY, **body}) as response,
    ):
        parts = response.iter_raw()
        assert next(parts) == frame(0)
        sidecar.process.send_signal(signal.SIGTERM)
        refused = wait_until(lambda: (a := sidecar.post({})).status_code == 503 and a)
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "draining"
        engine.go.set()
        assert b"".join(parts).endswith(frame(2) + b"data: [DONE]\n\n")
    assert sidecar.process.wait(PATIENCE_S) == 0
    assert len(engine.seen) == 1


def test_a_stream_longer_than_the_drain_gets_an_error_frame(
    tmp_path: Path, unix: str, engine: Engine
) -> None:
    more = ("--drain-timeout", "0.5")
    with run_sidecar(tmp_path, ["--upstream-unix", unix], *more) as sidecar:
        body = {**BODY, "stream": True, "n": 2, "gap": 600}
        with (
            sidecar.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            parts = response.iter_raw()
            assert next(parts) == frame(0)
            assert sidecar.terminate() == 0
            rest = b"".join(parts)
        engine.wait_left()
    assert b'"code":"draining"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


def test_a_second_signal_ends_it_at_once(tmp_path: Path, unix: str) -> None:
    body = {**BODY, "stream": True, "n": 2, "gap": 600}
    with (
        run_sidecar(tmp_path, ["--upstream-unix", unix], *LONG_DRAIN) as sidecar,
        sidecar.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        parts = response.iter_raw()  # without a name it would be closed, and end the stream
        assert next(parts) == frame(0)
        sidecar.process.send_signal(signal.SIGTERM)
        wait_until(lambda: sidecar.post({}).status_code == 503)
        assert sidecar.terminate() == 0


def test_it_ends_with_the_process_that_started_it(tmp_path: Path, unix: str) -> None:
    """Its parent is killed, and can tell nobody."""
    secret, ready = tmp_path / "secret", tmp_path / "ready.json"
    secret.write_text("s")
    argv = [sys.executable, "-m", "gateway_lite", "sidecar", "--upstream-unix", unix]
    argv += ["--secret-file", str(secret), "--ready-file", str(ready)]
    code = (
        "import sys; from hpc.processes.programs import spawn; child = spawn(sys.argv[1:]);"
        "print(child.pid, flush=True); child.wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, env=environment(), cwd=REPO
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_until(ready.exists)
    assert by_pid.identity(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not by_pid.identity(child))


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_secret_no_door(tmp_path: Path, text: str | None) -> None:
    secret = tmp_path / "secret"
    if text is not None:
        secret.write_text(text)
    argv = [sys.executable, "-m", "gateway_lite", "sidecar", "--upstream-port", "1"]
    argv += ["--secret-file", str(secret), "--ready-file", str(tmp_path / "ready")]
    done = subprocess.run(
        argv, env=environment(), cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"gateway-lite: cannot read a secret from {secret}\n"
    assert not (tmp_path / "ready").exists()


def test_it_imports_neither_pydantic_nor_yaml() -> None:
    code = (
        "import sys, gateway_lite.process.sidecar; print({'pydantic', 'yaml'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=REPO, capture_output=True, check=True
    )
    assert done.stdout == b"set()\n"


def test_a_node_without_tls_does_not_import_cryptography() -> None:
    code = "import sys, hpc.node.replica; print('cryptography' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=REPO, capture_output=True, check=True
    )
    assert done.stdout == b"False\n"


def test_a_free_port_of_the_sites_range_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        low = taken.getsockname()[1]
        ports = ("--port", f"{low}-{min(low + 20, 65535)}")
        with run_sidecar(tmp_path, ["--upstream-port", "1"], *ports) as first:
            assert low < first.port <= low + 20
            with first.client() as client:
                assert client.get("/health").status_code == 502
