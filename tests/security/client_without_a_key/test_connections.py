"""A client without a key opens connections, and sends what costs work; others are served."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc.file_limit import MOST_FILES
from hpc.keys import store as key_store
from hpc.state import directory
from tests.contract.gateway.conftest import engine, gateway, home
from tests.contract.gateway.hostile import running
from tests.contract.gateway.programs import PATIENCE_S, wait_until
from tests.contract.gateway.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.gateway.engines import Engine
    from tests.contract.gateway.programs import Running

__all__ = ["engine", "gateway", "home"]

IDLE = 700
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture
def few_files() -> Iterator[None]:
    """Let programs that are started have 1024 files open at first, as most systems have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["gateway", "sidecar"])
def test_a_server_may_have_as_many_files_as_the_machine_allows(
    few_files: None, tmp_path: Path, engine: Engine, kind: str
) -> None:
    with running(kind, engine, tmp_path) as front:
        limits = Path(f"/proc/{front.process.pid}/limits").read_text()

    line = next(one for one in limits.splitlines() if one.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert int(soft) == min(int(hard), MOST_FILES)


def dial(front: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_S)


def ended(sock: socket.socket) -> bool:
    """Tell whether the other side has closed."""
    poll = select.poll()  # select() takes no file above 1023
    poll.register(sock, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_idle_connections_make_room_and_keys_are_revoked_all_the_same(
    few_files: None, gateway: Running, home: Path
) -> None:
    # The gateway has started with few; the test itself holds more than earlier tests may leave it.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with gateway.client() as client, contextlib.ExitStack() as stack:
        assert client.get("/v1/models").status_code == 200
        idle = [stack.enter_context(dial(gateway)) for _ in range(IDLE)]
        # The oldest go, as many as are beyond the bound, and none with a key.
        wait_until(lambda: sum(map(ended, idle)) > 0)
        assert not any(map(ended, idle[-100:]))
        assert client.get("/v1/models").status_code == 200
        assert gateway.post({}).status_code == 200

        key_store.revoke(directory.keys_path(home), "tester")
        wait_until(lambda: client.get("/v1/models").status_code == 401)


def answers(front: Running, request: bytes, count: int) -> bytes:
    """Return what comes back for many requests in one write, to the end."""
    with dial(front) as sock:
        sock.sendall(request * count)
        sock.settimeout(PATIENCE_S)
        found = b""
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                found += data
                if found.count(b"HTTP/1.1") == count:
                    break
        return found


@pytest.mark.parametrize(("request_", "most"), [(HEALTH, 32), (CHAT, 1)], ids=["health", "chat"])
def test_a_flood_of_requests_on_one_connection_ends_it(
    gateway: Running, request_: bytes, most: int
) -> None:
    found = answers(gateway, request_, 200)

    assert found.count(b"HTTP/1.1") <= most + 1
    assert gateway.post({}).status_code == 200


def test_some_requests_on_one_connection_are_answered_in_order(gateway: Running) -> None:
    assert answers(gateway, HEALTH, 16).count(b"HTTP/1.1 200") == 16


def test_a_head_in_single_bytes_is_refused(gateway: Running) -> None:
    with Wire(gateway) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        early = False
        for byte in b"GET /" + b"a" * 4000:
            with contextlib.suppress(ConnectionError):
                wire.sock.send(bytes([byte]))
            time.sleep(0.001)
            early = bool(select.select([wire.sock], [], [], 0)[0])
            if early:
                break
        answer = wire.answer()

    assert answer is None or answer.code() == "request_timeout"
    # Within 4 of the 10 seconds that a head may take.
    assert early
