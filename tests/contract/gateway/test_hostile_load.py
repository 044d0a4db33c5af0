"""Too much of everything: bodies, connections, patience. Memory stays flat, others are served."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.gateway.engines import Raw, read_request
from tests.contract.gateway.hostile import door, front, gate, gateway_only, running, worker
from tests.contract.gateway.programs import PATIENCE_S, run_gateway, wait_until
from tests.contract.gateway.wire import CHAT, HI, Wire, rss_mib, steady_rss_mib, unharmed

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.contract.gateway.engines import Engine
    from tests.contract.gateway.programs import Running

__all__ = ["door", "front", "gate", "gateway_only", "worker"]

MIB = 1024 * 1024
HUGE = 200 * MIB
LIMIT_MIB = 64
IDLE = 10_000
SPARE = 500
"""Descriptors that the test itself needs."""
PIECE = b"x" * MIB
CHUNK = b"%x\r\n%b\r\n" % (MIB, PIECE)


@pytest.fixture(scope="module")
def many_files() -> Iterator[int]:
    """Let this process, and what it starts, have as many files open as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(IDLE, hard - SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module", autouse=True)
def slow(worker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Wire]]:
    """Begin requests that never end, at doors of their own; they are looked at last."""
    wires, ended = {}, threading.Event()
    with contextlib.ExitStack() as stack:
        for kind in ("gateway", "sidecar"):
            front = stack.enter_context(running(kind, worker, tmp_path_factory.mktemp("slow")))
            for part in ("head", "body"):
                wires[f"{kind} {part}"] = stack.enter_context(Wire(front, 60))
            if kind == "gateway":
                wires["upload body"] = stack.enter_context(Wire(front, 60))
        for name, wire in wires.items():
            upload = name.startswith("upload")
            form = "multipart/form-data; boundary=x" if upload else "application/json"
            lines = (f"content-length: {len(HI)}", f"content-type: {form}")
            head = wire.head(*lines, path="/v1/files" if upload else CHAT)
            begin = b"--x\r\n" if upload else HI[:5]
            wire.send(head + begin if name.endswith("body") else head[:-2] + b"x-a: ")
        thread = threading.Thread(target=drip, args=(wires, ended))
        thread.start()
        yield wires
        ended.set()
        thread.join()


def drip(wires: dict[str, Wire], ended: threading.Event) -> None:
    """Go on with the heads, so slowly that they never end."""
    while not ended.wait(0.5):
        for name, wire in wires.items():
            if name.endswith("head"):
                wire.send(b"a")


def test_a_body_that_says_it_is_huge_is_not_read(front: Running, worker: Engine) -> None:
    seen, before = len(worker.seen), rss_mib(front.process.pid)
    with Wire(front) as wire:
        wire.send(wire.head(f"content-length: {HUGE}"))
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 413
        assert answer.code() == "request_too_large"
        wire.pour(PIECE, HUGE // MIB)
        assert wire.closed()

    assert rss_mib(front.process.pid) < before + 5
    assert len(worker.seen) == seen


def test_a_body_that_turns_out_huge_is_refused_at_the_limit(front: Running, worker: Engine) -> None:
    seen, levels = len(worker.seen), []
    for _ in range(3):
        with Wire(front) as wire:
            wire.send(wire.head("transfer-encoding: chunked"))
            wire.pour(CHUNK, HUGE // MIB)
            answer = wire.answer()
            assert answer is None or answer.code() == "request_too_large"
        levels.append(steady_rss_mib(front.process.pid))

    assert levels[-1] < levels[0] + 10, levels
    assert len(worker.seen) == seen


def test_who_has_no_key_fills_nothing(front: Running) -> None:
    before = rss_mib(front.process.pid)
    with Wire(front, stranger=True) as wire:
        wire.send(wire.head("transfer-encoding: chunked"))
        wire.pour(CHUNK, HUGE // MIB)
        answer = wire.answer()
        assert answer is None or answer.code() in ("invalid_api_key", "unproved_connection")

    assert rss_mib(front.process.pid) < before + 5


def test_a_pipeline_of_bodies_is_not_read_ahead(front: Running, worker: Engine) -> None:
    before, seen = rss_mib(front.process.pid), len(worker.seen)
    with Wire(front) as wire:
        wire.send(wire.request(b'{"model": "m", "wait": 20}'))
        assert worker.wait_seen(seen + 1)
        wire.send(wire.head("transfer-encoding: chunked"))
        wire.pour(CHUNK, 60)

        assert rss_mib(front.process.pid) < before + 10


def open_idle(door: Running, count: int) -> list[socket.socket]:
    """Open connections that ask nothing."""
    return [door.connect(PATIENCE_S) for _ in range(count)]


def test_ten_thousand_idle_connections_are_little(many_files: int, front: Running) -> None:
    levels = []
    for _ in range(3):
        before = rss_mib(front.process.pid)
        idle = open_idle(front, many_files)
        unharmed(front)
        levels.append(rss_mib(front.process.pid))
        for one in idle:
            one.close()
        wait_until(lambda: len(list_files(front)) < many_files / 2)
        if len(levels) == 1:
            assert (levels[0] - before) * 1024 / many_files < 16

    assert levels[2] < levels[1] + 5, levels


def list_files(door: Running) -> list[Path]:
    """Return the descriptors that a door has open."""
    return list(Path(f"/proc/{door.process.pid}/fd").iterdir())


def test_who_does_not_read_slows_the_engine_and_fills_nothing(tmp_path: Path) -> None:
    sent = [0]
    cut = threading.Event()

    def pour(connection: socket.socket, number: int) -> None:
        read_request(connection)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        try:
            for _ in range(HUGE // MIB):
                connection.sendall(CHUNK)
                sent[0] += 1
        except OSError:
            cut.set()

    engine = Raw(pour)
    with run_gateway(tmp_path / "home", {"m": engine.url}) as front:
        before = rss_mib(front.process.pid)
        with Wire(front) as wire:
            wire.send(wire.request(b'{"model": "m", "stream": true}'))
            wait_until(lambda: stands_still(sent))
            assert sent[0] < 40
            assert rss_mib(front.process.pid) < before + 10
        assert cut.wait(PATIENCE_S)
    engine.close()


def stands_still(counter: list[int]) -> bool:
    """Tell whether something has begun and does not move for a second."""
    before = counter[0]
    time.sleep(1)
    return 0 < before == counter[0]


def test_who_is_too_slow_is_told_so(slow: dict[str, Wire]) -> None:
    for name, wire in slow.items():
        answer = wire.answer()
        assert answer is None or answer.code() == "request_timeout", name
        assert wire.closed(), name
