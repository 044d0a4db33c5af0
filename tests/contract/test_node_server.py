"""Waiting for an engine: sockets as an engine that loads shows them, and a process behind."""

from __future__ import annotations

import gc
import shutil
import socket
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from hpc.engines import Launch, ReadinessProbe
from hpc.errors import EngineError
from hpc.model import ServiceSpec
from hpc.node import engine_process
from hpc.processes import programs
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEC = ServiceSpec("tiny", "llamacpp", "llama-server", "/m.gguf", container="none")
LATE = "the engine was not ready within 1 s"


class Answer(BaseHTTPRequestHandler):
    """Answers every GET with the status of its server."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(getattr(self.server, "status", 503))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing; a Unix socket's client has no address to name."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for a Unix socket."""
    made = Path(tempfile.mkdtemp(prefix="test-node-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., engine_process.Running]]:
    started: list[programs.Process[str]] = []

    def begin(code: str = "import time; time.sleep(60)") -> engine_process.Running:
        log = folder / "log"
        log.write_text("Traceback of an older start\nValueError: old\n")
        size = log.stat().st_size
        child = programs.spawn([sys.executable, "-c", code], log=log)
        started.append(child)
        launch = Launch((), {}, (), (), ReadinessProbe(), None, "unix", "KEY")
        return engine_process.Running(child, launch, log, str(folder / "engine.sock"), size)

    yield begin
    for child in started:
        programs.stop(child, grace_s=0)


def wait(
    running: engine_process.Running, tick: Callable[[], None], seconds: float = PATIENCE_S
) -> None:
    deadline = time.time() + seconds
    engine_process.wait_ready(running, spec=SPEC, deadline=deadline, late=LATE, tick=tick)


def test_an_engine_is_ready_when_its_probe_says_so_and_not_before(
    start: Callable[..., engine_process.Running],
) -> None:
    """No file, a socket that refuses, one that accepts and says "loading", one that says yes."""
    running = start()
    seen: list[str] = []
    bound = socket.socket(socket.AF_UNIX)
    web: list[ThreadingUnixStreamServer] = []

    def tick() -> None:
        seen.append("tick")
        if len(seen) == 1:
            bound.bind(running.socket)
        elif len(seen) == 3:
            bound.close()
            Path(running.socket).unlink()
            web.append(ThreadingUnixStreamServer(running.socket, Answer))
            Thread(target=web[0].serve_forever, args=(0.05,)).start()
        elif len(seen) == 5:
            web[0].status = 200  # type: ignore[attr-defined]

    try:
        wait(running, tick)
    finally:
        for one in web:
            one.shutdown()
            one.server_close()
    assert len(seen) == 5
    gc.collect()


def test_an_engine_that_never_listens_is_late(start: Callable[..., engine_process.Running]) -> None:
    running = start()
    ticks: list[int] = []
    with pytest.raises(EngineError, match=f"^{LATE}$"):
        wait(running, lambda: ticks.append(1), 1)
    assert ticks


def test_a_socket_that_accepts_nothing_does_not_hold_us(
    start: Callable[..., engine_process.Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection to a full backlog would wait for ever."""
    monkeypatch.setattr(engine_process, "PROBE_TIMEOUT_S", 0.3)
    running = start()
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as filler:
        full.bind(running.socket)
        full.listen(0)
        filler.connect(running.socket)
        with pytest.raises(EngineError, match=f"^{LATE}$"):  # or it would hang
            wait(running, lambda: None, 1)


def test_an_engine_that_ends_is_not_waited_for(
    start: Callable[..., engine_process.Running],
) -> None:
    """The cause comes from this start's output, not from an older one in the same log."""
    running = start("import sys; sys.exit('something odd happened here')")
    running.process.wait(PATIENCE_S)
    with pytest.raises(EngineError) as caught:
        wait(running, lambda: None)
    assert "something odd happened here" in str(caught.value)
    assert "old" not in str(caught.value)


def test_what_ends_the_wait_from_outside_gets_through(
    start: Callable[..., engine_process.Running],
) -> None:
    def tick() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        wait(start(), tick)


def test_the_end_of_a_log_is_bounded_and_its_last_words_are_found(folder: Path) -> None:
    log = folder / "log"
    assert engine_process.read_tail(log) == ""
    assert engine_process.last_line("") == "it printed nothing"
    log.write_bytes(b"\xff" + b"x" * engine_process.LOG_TAIL + b"\nthe end\n\n  \n")
    tail = engine_process.read_tail(log)
    assert len(tail) == engine_process.LOG_TAIL
    assert engine_process.last_line(tail) == "the end"
    assert engine_process.last_line("y" * 1000) == "y" * 300
