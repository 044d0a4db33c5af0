"""What is counted, and that no client can make the count grow."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway_lite import accesslog
from gateway_lite.accesslog import AccessLog
from gateway_lite.catalog import Model
from gateway_lite.metrics import Metrics
from gateway_lite.record import Record
from gateway_lite.seen import Seen, bounded
from gateway_lite.standing import Member
from gateway_lite.tallies import SECONDS
from hpc.model import Phase

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

LABELS = ("model", "key", "kind", "phase", "status", "le")
MEMBERS = (Member(0, Phase.READY), Member(1, Phase.STOPPED, stale=True))
MODELS = {"m": Model("m", Phase.READY, 2, (), MEMBERS)}


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return the value of each sample, by its name and the values of its labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (
            sample.name.removeprefix("hpc_serve_gateway_"),
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def serve(seen: Seen, model: str, status: int = 200, key: str = "alice") -> None:
    record = Record("id", "/v1/completions")
    seen.begin(record)
    record.model, record.status, record.key, record.attempts = model, status, key, 1
    seen.end(record)


@given(st.text(min_size=1))
def test_an_unknown_model_is_another_one(model: str) -> None:
    assert bounded(model, {"m"}) == ("m" if model == "m" else "other")


def test_no_client_makes_series() -> None:
    metrics = Metrics()
    seen = Seen(models=lambda: MODELS, metrics=metrics, log=None)
    serve(seen, "m")
    serve(seen, "x", 404)
    before = set(samples(metrics))
    for number in range(100):
        serve(seen, f"made-up-{number}", 404)

    assert set(samples(metrics)) == before
    assert samples(metrics)["requests_total", "other", "alice", "4xx"] == 101


def test_the_state_of_things_is_measured_when_asked() -> None:
    metrics = Metrics()
    seen = Seen(models=lambda: MODELS, metrics=metrics, log=None)
    for model in ("m", "m", "x", ""):
        record = Record("id")
        record.model = model
        seen.begin(record)
    found = samples(metrics)

    assert (found["in_flight", "m"], found["in_flight", "other"]) == (2, 1)
    assert found["replicas", "m", "READY"] == found["replicas", "m", "STOPPED"] == 1
    assert found["replicas", "m", "QUEUED"] == 0
    assert found["heartbeats_stale", "m"] == 1


def test_a_request_that_waited_in_vain_counts_its_wait() -> None:
    metrics = Metrics()
    seen = Seen(models=lambda: MODELS, metrics=metrics, log=None)
    record = Record("id", "/v1/completions")
    record.model, record.queue_s = "m", 300.0
    record.failed(503, "queue_timeout")
    seen.end(record)
    found = samples(metrics)

    assert found["queue_wait_seconds_sum", "m"] == 300
    assert found["errors_total", "m", "queue_timeout"] == 1


def test_buckets_reach_from_five_milliseconds_to_five_minutes() -> None:
    assert (SECONDS[0], SECONDS[-1]) == (0.005, 300)
    assert list(SECONDS) == sorted(set(SECONDS))


def test_probes_are_noted_only_when_refused() -> None:
    metrics = Metrics()
    seen = Seen(models=lambda: MODELS, metrics=metrics, log=None)
    for status in (200, 200, 401):
        record = Record("id", "/metrics")
        record.status = status
        seen.end(record)
    found = samples(metrics)

    assert {k: v for k, v in found.items() if k[0] == "requests_total"} == {
        ("requests_total", "", "", "4xx"): 1
    }


def write(path: Path, count: int) -> int:
    """Write so many lines, and return how many were lost."""

    async def main() -> int:
        log = AccessLog(path)
        for number in range(count):
            log.write({"n": number})
        await asyncio.to_thread(log.close)
        return log.lost

    return asyncio.run(main())


def test_lines_are_written_in_order_to_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.touch(mode=0o644)

    assert write(path, 50) == 0
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == list(range(50))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "FILE_BYTES", 100)
    for _ in range(8):
        write(tmp_path / "access.log", 10)
    files = sorted(path.name for path in tmp_path.iterdir())

    assert files == ["access.log", *(f"access.log.{n}" for n in range(1, 5))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_cannot_be_written_costs_lines_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert write(tmp_path / "none" / "access.log", 3) == 3
    assert "cannot write" in caplog.text


def test_a_file_that_hangs_is_waited_for_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody reads stands for a file system that is gone."""
    monkeypatch.setattr(accesslog, "LINES_HELD", 20)
    monkeypatch.setattr(accesslog, "FLUSH_S", 0.01)
    monkeypatch.setattr(accesslog, "PATIENCE_S", 0.2)
    path = tmp_path / "access.log"
    os.mkfifo(path)

    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        log = AccessLog(path)
        slowest = 0.0
        for number in range(100):
            began = loop.time()
            log.write({"n": number})
            slowest = max(slowest, loop.time() - began)
            await asyncio.sleep(0.005)
        log.close()
        return log.lost, slowest

    lost, slowest = asyncio.run(main())
    kept = path.read_text().splitlines()

    assert slowest < 0.1
    assert lost > 20
    assert lost + len(kept) == 100
