"""A batch goes on when its model comes back, and when another machine has to see to it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from hpc import state
from hpc.batch import cases, crew
from hpc.batch.files import RealFiles
from tests.contract.gateway.engines import serve
from tests.contract.gateway.programs import run_gateway, wait_until
from tests.contract.gateway.test_batches import (
    PATIENCE_S,
    Echo,
    client,
    line,
    nobody_left,
    read,
    start,
    until,
)

if TYPE_CHECKING:
    from tests.contract.gateway.engines import Engine

__all__ = ("nobody_left",)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def engine() -> Engine:
    return Echo()


def waits_for(home: Path) -> set[str]:
    """Return what the workers of the one batch wait for."""
    folder = state.batch_dir(home, cases.ids(home)[0])
    return {one.waits_for for one in crew.load_all(RealFiles(), folder)}


def test_requests_wait_for_a_model_whose_service_was_stopped(home: Path, engine: Engine) -> None:
    lines = [line(f"r{n}", f"say {n}", wait=0.05) for n in range(400)]
    with serve(engine) as url, run_gateway(home, {"m": url, "n": url}) as front:
        asks = client(front)
        made = start(asks, lines)
        assert engine.wait_for(lambda: len(engine.seen) > 40, PATIENCE_S)
        file = home.parent / "models.yaml"
        whole = file.read_text()
        told = json.loads(whole)
        told["models"] = [one for one in told["models"] if one["name"] != "m"]
        file.write_text(json.dumps(told))
        wait_until(lambda: any("'m'" in one for one in waits_for(home)), PATIENCE_S)
        assert asks.batches.retrieve(made.id).status == "in_progress"
        file.write_text(whole)
        done = until(asks, made.id)
        found = read(asks, done.output_file_id)

    assert done.status == "completed", done
    assert done.error_file_id is None
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(400)]


def power_off(pid: int) -> None:
    """Kill all that runs on the machine of a process, at once."""
    proc = Path("/proc")
    space = (proc / str(pid) / "ns/uts").readlink()
    assert space != (proc / "self/ns/uts").readlink()
    for one in psutil.pids():
        try:
            if (proc / str(one) / "ns/uts").readlink() == space:
                os.kill(one, signal.SIGKILL)
        except OSError:  # it has ended meanwhile
            continue


def test_another_machine_takes_over_when_the_first_one_dies(home: Path, engine: Engine) -> None:
    lines = [line(f"r{n}", f"say {n}", wait=0.2) for n in range(400)]
    with serve(engine) as url, run_gateway(home, {"m": url}, host="alpha") as first:
        key = first.key
        (home / "keys.yaml").replace(home / "kept.yaml")
        with run_gateway(home, {"m": url}, host="beta") as second:
            (home / "kept.yaml").replace(home / "keys.yaml")
            made = start(client(first, key), lines)
            assert engine.wait_for(lambda: len(engine.seen) > 60, PATIENCE_S)
            power_off(first.process.pid)
            asks = client(second, key)
            done = until(asks, made.id)
            found = read(asks, done.output_file_id)
            progress = next(home.glob(f"orders/*/{made.id}/progress.json"))
            seen_to_by = json.loads(progress.read_text())["hostname"]

    assert done.status == "completed", done
    assert done.error_file_id is None
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(400)]
    assert seen_to_by == "beta"
