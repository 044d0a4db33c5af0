"""A client that leaves, whenever it leaves, ends the engine's work by a closed connection."""

from __future__ import annotations

import json
import re
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.gateway.engines import Engine, frame, serve
from tests.contract.gateway.programs import (
    BODY,
    Running,
    run_gateway,
    run_sidecar,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

LONG_S = 240
"""Seconds for which the engine would work on. The end of its work may not be what ends it."""
WINDOWS: dict[str, dict[str, Any]] = {
    "unary": {"wait": LONG_S},
    "before headers": {"stream": True, "wait": LONG_S},
    "in prefill": {"stream": True, "prefill": LONG_S},
    "in mid-stream": {"stream": True, "n": 50 * LONG_S, "gap": 0.02},
    "in a pause": {"stream": True, "n": 2, "gap": LONG_S},
}


@pytest.fixture(params=["gateway", "sidecar", "both", "both with TLS"])
def front(request: Any, home: Path, engine: Engine, tmp_path: Path) -> Iterator[Running]:
    """Put a gateway, a sidecar, or one behind the other in front of the engine."""
    if request.param == "gateway":
        with serve(engine) as url, run_gateway(home, {"m": url}) as running:
            yield running
        return
    tls = request.param.endswith("TLS")
    with (
        serve(engine, tmp_path / "e.sock") as path,
        run_sidecar(tmp_path, ["--upstream-unix", path], tls=tls) as sidecar,
    ):
        if request.param == "sidecar":
            yield sidecar
            return
        save_service(home)
        secret = save_replica(home, sidecar.url, certificate=sidecar.certificate)
        assert secret != sidecar.key
        (home / "services/m/replicas/0/secret").write_text(sidecar.key)
        with run_gateway(home) as running:
            yield running


def send(front: Running, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave the connection open."""
    content = json.dumps({**BODY, **body}).encode()
    sock = front.connect()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {front.key}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    sock.sendall(head.encode() + content)
    return sock


def test_leaving_ends_the_work_in_every_window(front: Running, engine: Engine) -> None:
    for name, body in WINDOWS.items():
        before = len(engine.seen)
        sock = send(front, body)
        assert engine.wait_seen(before + 1), name
        if name in ("in mid-stream", "in a pause"):
            while frame(0) not in sock.recv(65536):
                pass
        time.sleep(0.1)  # into the window; it is left somewhere on a slow machine too
        sock.close()
        assert engine.wait_left().worked_until == 0, name
    assert front.post({}).status_code == 200


def test_a_client_that_stops_reading_does_not_fill_our_memory(
    gateway: Running, engine: Engine
) -> None:
    def resident() -> int:
        text = Path(f"/proc/{gateway.process.pid}/statm").read_text()
        return int(text.split()[1]) * resource.getpagesize()

    assert gateway.post({}).status_code == 200
    before = resident()
    socks = [send(gateway, {"stream": True, "n": 1_000_000}) for _ in range(4)]
    assert engine.wait_for(lambda: len(engine.seen) == 5)
    time.sleep(2)
    assert resident() - before < 24 * 2**20
    for sock in socks:
        sock.close()
    assert engine.wait_for(lambda: all(s.left_at for s in engine.seen[1:]))


def queued(gateway: Running) -> int:
    """Return how many requests wait for a slot."""
    with gateway.client() as client:
        text = client.get("/metrics").text
    found = re.search(r'^hpc_serve_gateway_queued{model="m"} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def test_leaving_a_queue_gives_the_place_to_the_next(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url, run_gateway(home) as gateway:
        save_replica(home, url, slots=1)
        with gateway.client() as client:
            wait_until(lambda: client.get("/v1/models/m").status_code == 200)
            wait_until(lambda: client.get("/v1/models/m").json()["replicas"]["ready"])
        first = send(gateway, {"stream": True, "n": 2, "gap": LONG_S})
        while frame(0) not in first.recv(65536):
            pass
        second = send(gateway, {"marker": 2})
        wait_until(lambda: queued(gateway) == 1)
        third = send(gateway, {"marker": 3})
        wait_until(lambda: queued(gateway) == 2)
        assert len(engine.seen) == 1
        second.close()
        wait_until(lambda: queued(gateway) == 1)
        first.close()
        assert engine.wait_for(lambda: len(engine.seen) == 2)
        assert third.recv(65536).startswith(b"HTTP/1.1 200")
        assert engine.seen[1].body["marker"] == 3
        third.close()
