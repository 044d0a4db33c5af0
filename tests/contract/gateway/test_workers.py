"""Several workers are one gateway: exact limits, one record, one end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from hpc.keys import store as key_store
from hpc.keys import usage as key_usage
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import (
    BODY,
    PATIENCE_S,
    Running,
    run_gateway,
    wait_until,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 3


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def gateway(home: Path, engine: Engine) -> Iterator[Running]:
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, "--workers", str(WORKERS)) as running,
    ):
        wait_until(lambda: len(workers(running)) == WORKERS)
        # One that ends before the first is ready ends the gateway, as none would start.
        wait_until(lambda: "listening on" in running.log.read_text())
        yield running


def ask(url: str, key: str) -> httpx.Response:
    """Ask on a connection of its own, which any worker may take."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(
        f"{url}/v1/chat/completions",
        json=BODY,
        headers=headers,
        timeout=PATIENCE_S,
        trust_env=False,
    )


def counted(gateway: Running, name: str) -> float:
    """Return the sum of a metric's samples."""
    text = gateway.metrics()
    found = re.findall(rf"^hpc_serve_gateway_{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def test_limits_are_exact_and_metrics_are_sums(gateway: Running, home: Path) -> None:
    path = directory.keys_path(home)
    limited, entry = key_store.add(path, "limited", limits=KeyLimits(rpm=25))
    many = concurrent.futures.ThreadPoolExecutor(8)
    wait_until(lambda: ask(gateway.url, limited).status_code == 200)
    with many:
        asked = [many.submit(ask, gateway.url, limited) for _ in range(60)]
        statuses = Counter(one.result().status_code for one in asked)
    while 401 in statuses:  # a worker that had not read the new key yet
        lost = statuses.pop(401)
        statuses += Counter(ask(gateway.url, limited).status_code for _ in range(lost))

    assert statuses == {200: 24, 429: 36}
    assert counted(gateway, "requests_total") >= 61
    assert gateway.terminate() == 0
    assert key_usage.load(key_usage.path(home, socket.gethostname()))[entry.id].requests == 25


def test_a_worker_that_dies_is_replaced_and_holds_nothing(
    gateway: Running, home: Path, engine: Engine
) -> None:
    path = directory.keys_path(home)
    limited, _ = key_store.add(path, "limited", limits=KeyLimits(concurrency=1))
    wait_until(lambda: ask(gateway.url, limited).status_code == 200)
    headers = {"authorization": f"Bearer {limited}"}
    before = workers(gateway)
    with httpx.Client(base_url=gateway.url, headers=headers, trust_env=False) as client:
        held = {**BODY, "stream": True, "n": 3, "hold": True}
        wait_until(lambda: all(ask(gateway.url, limited).status_code == 200 for _ in range(6)))
        with client.stream("POST", "/v1/chat/completions", json=held) as stream:
            parts = stream.iter_raw()  # dropped, it would close the connection
            next(parts)
            assert ask(gateway.url, limited).status_code == 429
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
    engine.go.set()
    wait_until(lambda: len(set(workers(gateway)) - set(before)) == WORKERS)
    wait_until(lambda: ask(gateway.url, limited).status_code == 200)

    assert gateway.log.read_text().count("ended with -9; again in 0.1 s") == WORKERS
    assert gateway.terminate() == 0


def test_all_finish_their_streams_at_the_end(gateway: Running, engine: Engine, home: Path) -> None:
    held = {**BODY, "stream": True, "n": 3, "hold": True}
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(6):
            client = stack.enter_context(gateway.client())
            streams.append(
                stack.enter_context(client.stream("POST", "/v1/chat/completions", json=held))
            )
        parts = [stream.iter_text() for stream in streams]
        begun = [next(part) for part in parts]
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: len(workers(gateway)) < WORKERS or refused(gateway))
        engine.go.set()
        texts = [first + "".join(part) for first, part in zip(begun, parts, strict=True)]

    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
    assert not any('"error"' in text for text in texts)
    assert gateway.process.wait(PATIENCE_S) == 0
    assert directory.load_gateway(home, socket.gethostname()) is None


def refused(gateway: Running) -> bool:
    """Tell whether new requests are turned away."""
    try:
        return ask(gateway.url, gateway.key).status_code == 503
    except httpx.TransportError:
        return True


def test_a_hangup_reloads_every_worker(gateway: Running, home: Path) -> None:
    models = home.parent / "models.yaml"
    entries = json.loads(models.read_text())["models"]
    entries.append({**entries[0], "name": "new"})
    models.write_text(json.dumps({"version": 1, "models": entries}))
    gateway.process.send_signal(signal.SIGHUP)

    def known() -> int:
        with gateway.client() as client:
            return client.get("/v1/models/new").status_code

    wait_until(lambda: all(known() == 200 for _ in range(4 * WORKERS)))
    assert len(workers(gateway)) == WORKERS
    record = directory.load_gateway(home, socket.gethostname())
    assert record is not None
    assert record.pid == gateway.process.pid


def test_workers_end_with_the_process_that_looks_after_them(gateway: Running) -> None:
    left = workers(gateway)
    gateway.process.kill()
    gateway.process.wait(PATIENCE_S)

    wait_until(lambda: not any(_alive(pid) for pid in left))


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_what_keeps_workers_from_starting_is_told_once(home: Path) -> None:
    record = key_usage.path(home, socket.gethostname())
    record.parent.mkdir(parents=True)
    record.write_text("[]")
    with (
        pytest.raises(AssertionError, match=r"use\.json is not a record of what keys have used"),
        run_gateway(home, {}, "--workers", "2"),
    ):
        pytest.fail("it runs")


@pytest.mark.parametrize("number", ["0", "32"])
def test_numbers_of_workers_that_are_not_possible(home: Path, number: str) -> None:
    with (
        pytest.raises(AssertionError, match=rf"--workers {number} is not possible"),
        run_gateway(home, {}, "--workers", number),
    ):
        pytest.fail("it runs")


def listens(pid: int) -> bool:
    """Tell whether a process has a handler for SIGHUP."""
    with contextlib.suppress(OSError):
        caught = re.search(
            r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
        )
        return caught is not None and bool(int(caught[1], 16) & 1 << signal.SIGHUP - 1)
    return False


def test_hangups_do_not_end_a_worker_that_starts(gateway: Running) -> None:
    before = workers(gateway)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in workers(gateway))
    wait_until(lambda: len(workers(gateway)) == WORKERS)
    (new,) = set(workers(gateway)) - set(before)

    def up() -> bool:
        gateway.process.send_signal(signal.SIGHUP)
        return listens(new) or new not in workers(gateway)

    wait_until(up)
    assert set(workers(gateway)) == {*before[1:], new}
    assert "ended with -1;" not in gateway.log.read_text()
