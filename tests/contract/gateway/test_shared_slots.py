"""An engine that serves few at once gets no more from all workers of a gateway together."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from gateway_lite.routing.shared_slots import NUMBERS
from gateway_lite.shared_memory import make
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import (
    BODY,
    Running,
    run_gateway,
    save_replica,
    save_service,
    wait_until,
    workers,
)
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 2
ROOT = Path(__file__).parents[3]
RACER = """
import fcntl, os, sys
from gateway_lite.routing.shared_slots import SlotTable, wakeups
path, mark, worker = sys.argv[1:]
slots = SlotTable(path, int(worker), wakeups(4)).open("k", 1)
handle = os.open(mark, os.O_RDWR)
print("ready", flush=True)
sys.stdin.readline()
taken = 0
while taken < 20000:
    if slots.take():
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken += 1
        fcntl.flock(handle, fcntl.LOCK_UN)
        slots.give()
print("done", flush=True)
"""


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    with serve(engine) as address:
        yield address


@pytest.fixture
def gateway(home: Path, engine: Engine, url: str) -> Iterator[Running]:
    save_service(home)
    save_replica(home, url, slots=1, beat_at=4e9)
    with run_gateway(home, None, "--workers", str(WORKERS)) as running:
        wait_until(lambda: len(workers(running)) == WORKERS)
        wait_until(lambda: all(ask(running).status_code == 200 for _ in range(8)))
        engine.seen.clear()
        yield running


def ask(gateway: Running, **more: Any) -> httpx.Response:
    """Ask on a connection of its own, which any worker may take."""
    headers = {"authorization": f"Bearer {gateway.key}"}
    url = f"{gateway.url}/v1/chat/completions"
    return httpx.post(
        url, json={**BODY, **more}, headers=headers, timeout=PATIENCE_S, trust_env=False
    )


def clients(gateway: Running, pid: int) -> int:
    """Return how many clients a worker has accepted and not yet lost."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == gateway.port
        for one in psutil.Process(pid).net_connections("tcp")
    )


def test_one_slot_means_one_request_at_a_time_of_all_workers(
    gateway: Running, home: Path, engine: Engine
) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as many:
        asked = [many.submit(ask, gateway, wait=0.005, stream=n % 3 == 0) for n in range(90)]
        answers = [one.result() for one in asked]
    assert gateway.terminate() == 0

    assert [answer.status_code for answer in answers] == [200] * 90
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers[::3])
    spans = sorted((seen.began_at, seen.worked_until) for seen in engine.seen)
    assert len(spans) == 90
    idle = [began - ended for (_, ended), (began, _) in itertools.pairwise(spans)]
    assert min(idle) >= 0
    assert statistics.median(idle) < 0.2, "workers do not hear of free slots but look once a second"
    folder = directory.gateway_dir(home, socket.gethostname())
    counts = [(folder / name).read_text().count("\n") for name in ("access.log", "access.1.log")]
    assert min(counts) > 0, "one worker took them all"


def test_a_worker_that_is_killed_gives_its_slot_to_who_waits_elsewhere(
    gateway: Running, engine: Engine
) -> None:
    first, second = workers(gateway)
    wait_until(lambda: clients(gateway, first) + clients(gateway, second) == 0)
    body = {**BODY, "stream": True, "hold": True}
    with (
        concurrent.futures.ThreadPoolExecutor(48) as many,
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as held,
    ):
        parts = held.iter_raw()
        next(parts)
        holder, other = (first, second) if clients(gateway, first) else (second, first)
        waiting: list[concurrent.futures.Future[httpx.Response]] = []
        while not clients(gateway, other):
            assert len(waiting) < 48, "one worker takes them all"
            waiting.append(many.submit(ask, gateway))
            wait_until(
                lambda: clients(gateway, holder) + clients(gateway, other) == 1 + len(waiting)
            )
        assert len(engine.seen) == 1
        os.kill(holder, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
        engine.go.set()
        ends = [one.exception() or one.result().status_code for one in waiting]

    assert ends[-1] == 200
    assert all(end == 200 or isinstance(end, httpx.TransportError) for end in ends)
    assert ask(gateway).status_code == 200


def test_processes_that_race_for_one_slot_have_it_one_after_the_other(tmp_path: Path) -> None:
    """Who has it locks a file without waiting, which fails where another one has it too."""
    path, mark = tmp_path / "slots", tmp_path / "mark"
    mark.touch()
    with path.open("wb") as made:
        make(made.fileno(), NUMBERS)
    argv = [sys.executable, "-c", RACER, str(path), str(mark)]
    racers = [
        subprocess.Popen(
            [*argv, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for worker in range(4)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 4
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        told = [racer.communicate(timeout=PATIENCE_S)[0] for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    assert told == ["done\n"] * 4
