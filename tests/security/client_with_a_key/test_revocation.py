"""A client whose key is revoked or expires while its requests are under way."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from hpc.keys import store as key_store
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, PATIENCE_S, run_gateway, wait_until, workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

CHAT = "/v1/chat/completions"
LONG = {**BODY, "stream": True, "n": 100_000, "gap": 0.05}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the state directory of a test's gateway."""
    return directory.home(str(tmp_path / "home"))


@pytest.fixture
def engine() -> Engine:
    """Return the engine behind a test's gateway."""
    return Engine()


@pytest.fixture
def gateway(home: Path, engine: Engine) -> Iterator[Running]:
    """Run a gateway with two workers."""
    with serve(engine) as url, run_gateway(home, {"m": url}, "--workers", "2") as running:
        yield running


def add(home: Path, gateway: Running, name: str, expires: datetime | None = None) -> str:
    """Return a new key, once all workers take it."""
    given, _ = key_store.add(directory.keys_path(home), name, expires=expires)

    def known() -> bool:
        auth = {"authorization": f"Bearer {given}"}
        url = gateway.url + "/v1/models"
        return httpx.get(url, headers=auth, trust_env=False, timeout=60).status_code == 200

    wait_until(lambda: all(known() for _ in range(8)))
    return given


def stream(gateway: Running, key: str, body: dict[str, object] | None = None) -> socket.socket:
    """Begin a stream on a connection of its own."""
    content = json.dumps(body or LONG).encode()
    sock = socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
    sock.sendall(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(content), content))
    return sock


def begun(sock: socket.socket) -> bytes:
    """Return the first bytes of an answer."""
    first = sock.recv(4096)
    assert b" 200 " in first
    return first


def rest(sock: socket.socket) -> bytes:
    """Return what comes until the end of a chunked answer."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        more = sock.recv(65536)
        if not more:
            break
        data += more
    return data


def test_streams_end_with_an_error_at_every_worker(
    home: Path, gateway: Running, engine: Engine
) -> None:
    key = add(home, gateway, "gone")
    streams = [stream(gateway, key) for _ in range(8)]
    others = [stream(gateway, gateway.key) for _ in range(4)]
    for each in (*streams, *others):
        begun(each)
    assert len(workers(gateway)) >= 2
    key_store.revoke(directory.keys_path(home), "gone")
    ends = [rest(each) for each in streams]

    assert all(b'"code":"invalid_api_key"' in end for end in ends)
    assert all(b"data: [DONE]" in end for end in ends)
    for each in others:
        assert each.recv(4096)
    assert engine.wait_for(lambda: sum(one.left_at is not None for one in engine.seen) == 8)
    for each in (*streams, *others):
        each.close()


def test_a_request_that_waits_for_its_answer_is_refused(
    home: Path, gateway: Running, engine: Engine
) -> None:
    key = add(home, gateway, "gone")
    sock = stream(gateway, key, {**BODY, "wait": 600})
    assert engine.wait_seen(1)
    key_store.revoke(directory.keys_path(home), "gone")

    assert b" 401 " in sock.makefile("rb").readline()
    engine.wait_left()
    sock.close()


def test_a_body_under_way_is_refused(home: Path, gateway: Running, engine: Engine) -> None:
    key = add(home, gateway, "gone")
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        sock.sendall(head.encode() + b"content-length: 1000\r\n\r\n{")
        key_store.revoke(directory.keys_path(home), "gone")
        assert b" 401 " in sock.makefile("rb").readline()

    assert not engine.seen


def test_an_upload_under_way_ends_and_leaves_nothing(home: Path, gateway: Running) -> None:
    key = add(home, gateway, "gone")
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        kind = "content-type: multipart/form-data; boundary=x\r\ncontent-length: 100000\r\n\r\n"
        part = '--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        sock.sendall((head + kind + part + "a" * 500).encode())
        wait_until(lambda: list((home / "files").glob("*/.draft-*")))
        key_store.revoke(directory.keys_path(home), "gone")
        assert b" 401 " in sock.makefile("rb").readline()

    wait_until(lambda: not list((home / "files").glob("*/.draft-*")))
    assert "Traceback" not in gateway.log.read_text()


def test_a_key_that_expires_ends_its_streams(home: Path, gateway: Running) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=8)
    key = add(home, gateway, "brief", soon)
    sock = stream(gateway, key)
    begun(sock)

    assert b'"code":"invalid_api_key"' in rest(sock)
    assert datetime.now(timezone.utc) >= soon
    sock.close()


def test_a_key_that_is_struck_from_the_file_ends_its_streams(home: Path, gateway: Running) -> None:
    key = add(home, gateway, "gone")
    sock = stream(gateway, key)
    begun(sock)
    path = directory.keys_path(home)
    said = yaml.safe_load(path.read_text())
    said["keys"] = [one for one in said["keys"] if one["name"] != "gone"]
    path.write_text(yaml.safe_dump(said))

    assert b'"code":"invalid_api_key"' in rest(sock)
    sock.close()


def test_an_unusable_file_ends_no_stream(home: Path, gateway: Running) -> None:
    sock = stream(gateway, gateway.key, {**LONG, "n": 100})
    begun(sock)
    directory.keys_path(home).chmod(0o644)
    end = rest(sock)

    assert b"error" not in end
    assert b"[DONE]" in end
    sock.close()
