"""What is counted, and that no client can make the count grow."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway_lite.catalog.models import Model, ReplicaStatus
from gateway_lite.catalog.replica import Replica
from gateway_lite.routing.replica_state import ReplicaSnapshot as Seat
from gateway_lite.telemetry import access_log
from gateway_lite.telemetry.access_log import AccessLog
from gateway_lite.telemetry.counters import SECONDS, Histogram
from gateway_lite.telemetry.metrics import LiveSnapshot, Metrics
from gateway_lite.telemetry.observer import RequestObserver, bounded
from gateway_lite.telemetry.request_record import RequestRecord
from hpc.model import Phase, Reload

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("model", "replica", "key", "kind", "phase", "status", "state", "result", "le")
MEMBERS = (ReplicaStatus(0, Phase.READY), ReplicaStatus(1, Phase.STOPPED, stale=True))
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


def serve(seen: RequestObserver, model: str, status: int = 200, key: str = "alice") -> None:
    record = RequestRecord("id", "/v1/completions")
    seen.begin(record)
    record.model, record.status, record.key, record.attempts = model, status, key, 1
    seen.end(record)


@dataclass
class File:
    """What became of models.yaml."""

    outcome: Reload
    taken: int = 0
    refused: int = 0


@given(st.text(min_size=1))
def test_an_unknown_model_is_another_one(model: str) -> None:
    assert bounded(model, {"m"}) == ("m" if model == "m" else "other")


def test_no_client_makes_series() -> None:
    metrics = Metrics()
    seen = RequestObserver(models=lambda: MODELS, metrics=metrics, log=None)
    serve(seen, "m")
    serve(seen, "x", 404)
    before = set(samples(metrics))
    for number in range(100):
        serve(seen, f"made-up-{number}", 404)

    assert set(samples(metrics)) == before
    assert samples(metrics)["requests_total", "other", "alice", "4xx"] == 101


def test_the_state_of_things_is_measured_when_asked() -> None:
    metrics = Metrics()
    seen = RequestObserver(models=lambda: MODELS, metrics=metrics, log=None)
    for model in ("m", "m", "x", ""):
        record = RequestRecord("id")
        record.model = model
        seen.begin(record)
    found = samples(metrics)

    assert (found["in_flight", "m"], found["in_flight", "other"]) == (2, 1)
    assert found["replicas", "m", "READY"] == found["replicas", "m", "STOPPED"] == 1
    assert found["replicas", "m", "QUEUED"] == 0
    assert found["heartbeats_stale", "m"] == 1


def test_what_a_key_may_not_and_what_the_cache_knew_is_counted() -> None:
    metrics = Metrics()
    seen = RequestObserver(models=lambda: MODELS, metrics=metrics, log=None)
    for limited, cache in (
        ("rpm", ""),
        ("rpm", ""),
        ("daily_tokens", ""),
        ("", "hit"),
        ("", "miss"),
    ):
        record = RequestRecord("id", "/v1/completions")
        record.model, record.key, record.cache = "m", "alice", cache
        record.limited, record.status = limited, 429 if limited else 200
        seen.begin(record)
        seen.end(record)
    found = samples(metrics)

    assert {name[1:]: value for name, value in found.items() if name[0] == "limited_total"} == {
        ("alice", "rpm"): 2,
        ("alice", "daily_tokens"): 1,
    }
    assert (found["cache_total", "m", "hit"], found["cache_total", "m", "miss"]) == (1, 1)


def test_what_was_counted_of_a_model_goes_with_it() -> None:
    metrics = Metrics()
    models = dict(MODELS)
    seen = RequestObserver(models=lambda: models, metrics=metrics, log=None)
    for status in (200, 500):
        serve(seen, "m", status)
        serve(seen, "x", status)
    assert samples(metrics)["requests_total", "m", "alice", "2xx"] == 1
    models.clear()
    found = samples(metrics)

    assert not [name for name in found if "m" in name]
    assert found["requests_total", "other", "alice", "2xx"] == 1
    assert found["errors_total", "other", "engine"] == 1


@pytest.mark.parametrize("breaker", ["closed", "half-open", "open"])
def test_a_replica_is_up_where_requests_go_there(breaker: str) -> None:
    replica = Replica("m/0@1/host:1", "m/0", "http://host:1")
    model = Model("m", Phase.READY, 1, (replica,), (ReplicaStatus(0, Phase.READY),))
    state = Seat(3, 90, breaker, 1.5)
    metrics = Metrics()
    metrics.watch(lambda: LiveSnapshot({"m": model}, {}, 0, {"m": 2}, {replica.key: state}))
    found = samples(metrics)

    assert found["replica_up", "m", "m/0"] == (breaker != "open")
    assert {n[3]: v for n, v in found.items() if n[0] == "replica_breaker"} == {
        word: float(word == breaker) for word in ("closed", "half-open", "open")
    }
    assert found["replica_outstanding", "m", "m/0"] == 3
    assert found["replica_outstanding_tokens", "m", "m/0"] == 90
    assert found["replica_stalled_seconds", "m", "m/0"] == 1.5
    assert found["queued", "m"] == 2


def test_readings_of_the_models_file_are_told() -> None:
    file = File(Reload(taken_at=5.0, refused="why", refused_at=7.0), taken=2, refused=1)
    metrics = Metrics()
    metrics.watch(lambda: LiveSnapshot({}, {}, 0, file=file))
    found = samples(metrics)

    assert found["models_file_taken_timestamp_seconds",] == 5
    assert found["models_file_refused",] == 1
    assert found["models_file_refused_timestamp_seconds",] == 7
    assert (found["reloads_total", "taken"], found["reloads_total", "refused"]) == (2, 1)


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_histogram_is_the_one_that_the_library_would_make(values: list[float]) -> None:
    ours = Histogram(SECONDS)
    theirs = prometheus_client.Histogram("h", "h", buckets=SECONDS, registry=None)
    for value in values:
        ours.add(value)
        theirs.observe(value)
    (family,) = theirs.collect()
    buckets = [(s.labels["le"], s.value) for s in family.samples if s.name == "h_bucket"]

    assert ours.buckets() == buckets
    assert ours.total == pytest.approx(sum(values))


def test_a_request_that_waited_in_vain_counts_its_wait() -> None:
    metrics = Metrics()
    seen = RequestObserver(models=lambda: MODELS, metrics=metrics, log=None)
    record = RequestRecord("id", "/v1/completions")
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
    seen = RequestObserver(models=lambda: MODELS, metrics=metrics, log=None)
    for status in (200, 200, 401):
        record = RequestRecord("id", "/metrics")
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
    monkeypatch.setattr(access_log, "FILE_BYTES", 100)
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
    monkeypatch.setattr(access_log, "LINES_HELD", 20)
    monkeypatch.setattr(access_log, "FLUSH_S", 0.01)
    monkeypatch.setattr(access_log, "PATIENCE_S", 0.2)
    path = tmp_path / "access.log"
    os.mkfifo(path)

    async def main() -> int:
        log = AccessLog(path)
        for number in range(100):
            log.write({"n": number})  # which would hang
            await asyncio.sleep(0.005)
        log.close()
        return log.lost

    lost = asyncio.run(main())
    kept = path.read_text().splitlines()

    assert lost > 20
    assert lost + len(kept) == 100
