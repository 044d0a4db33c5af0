"""What the gateway tells of its requests: counts at /metrics, and a line for each in its log."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hpc.model import Phase
from hpc.state import directory
from hpc.version import __version__
from tests.contract.gateway.engines import Engine, frame, serve
from tests.contract.gateway.programs import (
    REPO,
    run_gateway,
    run_over,
    run_sidecar,
    save_replica,
    save_service,
    wait_until,
)
from tests.contract.gateway.test_failover import dead_address
from tests.contract.gateway.test_leaving import send

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.gateway.programs import Running

LABELS = ("version", "model", "key", "kind", "phase", "status", "le")
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}
FIELDS = {
    *("time", "request_id", "key", "model", "replica", "status", "error"),
    *("prompt_tokens", "completion_tokens", "queue_ms", "ttft_ms", "total_ms", "attempts"),
}


def counts(gateway: Running) -> dict[tuple[str, ...], float]:
    """Return the value of each sample, by its name and the values of its labels."""
    return {
        (
            sample.name.removeprefix("hpc_serve_gateway_"),
            *(sample.labels[name] for name in LABELS if name in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(gateway.metrics())
        for sample in family.samples
    }


def log_of(home: Path) -> Path:
    """Return the one access log below a state directory."""
    return next(iter(home.glob("gateways/*/access.log")), home / "none")


def lines(home: Path, count: int) -> list[dict[str, Any]]:
    """Return the lines of the access log when there are so many."""

    def found() -> list[dict[str, Any]]:
        path = log_of(home)
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    wait_until(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def test_a_request_served_is_counted_and_logged(gateway: Running, home: Path) -> None:
    began = time.monotonic()
    gateway.post({"usage": USAGE, "wait": 0.05})
    gateway.post({"usage": USAGE, "wait": 0.02, "gap": 0.05, "stream": True})
    took_ms = 1000 * (time.monotonic() - began)
    whole, stream = lines(home, 2)
    found = counts(gateway)

    assert found["requests_total", "m", "tester", "2xx"] == 2
    assert found["tokens_total", "m", "tester", "prompt"] == 22
    assert found["tokens_total", "m", "tester", "completion"] == 8
    assert not [name for name in found if name[0] == "errors_total"]
    for name in ("time_to_first_byte", "request_duration", "queue_wait"):
        assert found[f"{name}_seconds_count", "m"] == 2
    assert found["request_duration_seconds_bucket", "m", "0.025"] == 0
    assert found["request_duration_seconds_bucket", "m", "300.0"] == 2
    assert set(whole) == set(stream) == FIELDS
    for line in (whole, stream):
        about = ("key", "model", "replica", "status", "error", "attempts")
        assert [line[name] for name in about] == ["tester", "m", "m", 200, None, 1]
        assert (line["prompt_tokens"], line["completion_tokens"]) == (11, 4)
        assert 0 <= line["queue_ms"] < line["ttft_ms"] <= line["total_ms"]
    assert whole["ttft_ms"] >= 50
    assert whole["total_ms"] + stream["total_ms"] < took_ms
    assert stream["total_ms"] - stream["ttft_ms"] >= 100


def test_the_log_names_a_request_as_the_client_does(gateway: Running, home: Path) -> None:
    with gateway.client() as client:
        body = {"model": "m"}
        named = client.post("/v1/completions", json=body, headers={"x-request-id": "mine-1"})
        other = client.post("/v1/completions", json=body)
    names = [line["request_id"] for line in lines(home, 2)]

    assert names == ["mine-1", other.headers["x-request-id"]]
    assert named.headers["x-request-id"] == "mine-1"


def test_errors_are_counted_by_kind(gateway: Running, home: Path) -> None:
    gateway.post({"model": "no-such-model"})
    gateway.post({"model": ""})
    gateway.post({"status": 400})
    gateway.post({"stream": True, "die": 2})
    httpx.post(gateway.url + "/v1/completions", json={"model": "m"}, trust_env=False)
    found = counts(gateway)
    logged = [
        (line["status"], line["error"], line["model"], line["key"]) for line in lines(home, 5)
    ]

    assert logged == [
        (404, "model_not_found", "other", "tester"),
        (400, "invalid_request", None, "tester"),
        (400, None, "m", "tester"),
        (502, "upstream_error", "m", "tester"),
        (401, "invalid_api_key", None, None),
    ]
    assert {name[1:]: value for name, value in found.items() if name[0] == "errors_total"} == {
        ("other", "model_not_found"): 1,
        ("", "invalid_request"): 1,
        ("m", "engine"): 1,
        ("m", "upstream_error"): 1,
        ("", "invalid_api_key"): 1,
    }
    assert found["requests_total", "m", "tester", "5xx"] == 1
    assert found["time_to_first_byte_seconds_count", "m"] == 0


def test_retries_are_counted(home: Path) -> None:
    with dead_address() as dead, serve(Engine()) as url, run_over(home, [dead, url]) as gateway:
        for number in range(12):  # they begin otherwise, and so have other homes
            words = [{"role": "user", "content": f"{number} " * 20}]
            assert gateway.post({"messages": words}).status_code == 200
            time.sleep(0.01)
        found = counts(gateway)
        again = [line for line in lines(home, 12) if line["attempts"] > 1]

    assert found["retries_total", "m"] == len(again) > 0
    assert {(line["status"], line["replica"]) for line in again} == {(200, "m/1")}
    assert found["requests_total", "m", "tester", "2xx"] == 12


def test_a_client_that_leaves_is_told_from_one_that_is_done(
    gateway: Running, engine: Engine, home: Path
) -> None:
    early = send(gateway, {"stream": True, "n": 1000, "gap": 0.02})
    while frame(0) not in early.recv(65536):
        pass
    assert counts(gateway)["in_flight", "m"] == 1
    early.close()
    engine.wait_left()
    late = send(gateway, {"stream": True, "linger": 20, "usage": USAGE})
    heard = b""
    while b"[DONE]" not in heard:
        heard += late.recv(65536)
    late.close()
    assert engine.wait_for(lambda: len(engine.seen) == 2 and engine.seen[1].left_at is not None)
    logged = [(line["status"], line["error"], line["prompt_tokens"]) for line in lines(home, 2)]
    found = counts(gateway)

    assert logged == [(499, "client_gone", None), (200, None, 11)]
    assert found["requests_total", "m", "tester", "4xx"] == 1
    assert found["requests_total", "m", "tester", "2xx"] == 1
    assert found["errors_total", "m", "client_gone"] == 1
    assert found["in_flight", "m"] == 0


def test_the_wait_for_a_slot_is_seen(home: Path, engine: Engine) -> None:
    save_service(home)
    with serve(engine) as url:
        save_replica(home, url, slots=1)
        with run_gateway(home) as gateway:
            first = send(gateway, {"stream": True, "hold": True})
            assert engine.wait_seen(1)
            second = send(gateway, {})
            wait_until(lambda: counts(gateway).get(("queued", "m")) == 1)
            seen_queued = time.monotonic()
            time.sleep(0.4)
            queued_ms = 1000 * (time.monotonic() - seen_queued)
            engine.go.set()
            assert second.recv(65536).startswith(b"HTTP/1.1 200")
            second.close()
            heard = b""
            while b"[DONE]" not in heard:
                heard += first.recv(65536)
            first.close()
            waits = sorted(line["queue_ms"] for line in lines(home, 2))
            found = counts(gateway)

    assert waits[0] < waits[1]
    assert waits[1] >= queued_ms
    assert found["queue_wait_seconds_count", "m"] == 2
    assert found["queue_wait_seconds_sum", "m"] == pytest.approx(sum(waits) / 1000, abs=0.01)


def test_replicas_are_counted_by_phase(home: Path) -> None:
    save_service(home, replicas=4)
    save_replica(home, "http://127.0.0.1:1", number=0)
    save_replica(home, "http://127.0.0.1:2", number=1, phase=Phase.LOADING)
    save_replica(home, "http://127.0.0.1:3", number=2, beat_at=time.time() - 2 * directory.STALE_S)
    with run_gateway(home) as gateway:
        found = counts(gateway)

    phases = {name[2]: value for name, value in found.items() if name[0] == "replicas" if value}
    assert phases == {"READY": 1, "LOADING": 1, "STOPPED": 1, "QUEUED": 1}
    assert found["heartbeats_stale", "m"] == 1
    assert found["build_info", __version__] == 1


def test_metrics_need_a_key(gateway: Running) -> None:
    assert httpx.get(gateway.url + "/metrics", trust_env=False).status_code == 401


def test_nothing_secret_is_told(gateway: Running, home: Path) -> None:
    secret = "tell-nobody-4711"
    words = {"messages": [{"role": "user", "content": secret}], "user": secret}
    gateway.post(words)
    gateway.post({**words, "stream": True, "die": 1})
    gateway.post({**words, "model": secret})
    with gateway.client() as client:
        client.get("/v1/models/" + secret)
        client.get("/" + secret, headers={"x-request-id": secret + "!"})
    told = gateway.metrics()
    lines(home, 5)
    told += log_of(home).read_text()

    assert secret not in told
    assert gateway.key not in told
    assert stat.S_IMODE(log_of(home).stat().st_mode) == 0o600


def test_the_last_lines_are_written_at_the_end(home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        gateway.post({})
        assert gateway.terminate() == 0
    assert len(lines(home, 1)) == 1


def test_a_log_that_cannot_be_written_costs_nobody_an_answer(home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        (record,) = home.glob("gateways/*/gateway.json")
        (record.parent / "access.log").mkdir()
        assert gateway.post({}).status_code == 200
        wait_until(lambda: counts(gateway)["access_log_lost_total",] == 1)
        assert gateway.log.read_text().count("cannot write") == 1


def test_a_log_that_hangs_delays_neither_answers_nor_the_end(home: Path) -> None:
    """A pipe that nobody reads stands for a file system that is gone."""
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        (record,) = home.glob("gateways/*/gateway.json")
        os.mkfifo(record.parent / "access.log")
        for _ in range(4):
            assert gateway.post({}).status_code == 200
            time.sleep(0.3)  # so that lines go out in several writes; nothing is claimed of them
        assert gateway.terminate() == 0  # a gateway that waited for the pipe would never end


def test_a_sidecar_has_the_engines_metrics_and_no_log(tmp_path: Path) -> None:
    engine = Engine()
    with (
        serve(engine, tmp_path / "e.sock") as path,
        run_sidecar(tmp_path, ["--upstream-unix", path]) as door,
        door.client() as client,
    ):
        assert client.get("/metrics").json()["engine"] == "engine"
    assert engine.seen[0].path == "/metrics"
    assert list(tmp_path.rglob("access.log")) == []


def test_the_page_names_every_metric(gateway: Running) -> None:
    page = (REPO / "docs" / "observability.md").read_text(encoding="utf-8")
    table = page.partition("| metric | labels | meaning |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    text = gateway.metrics()
    typed = re.findall(r"^# TYPE hpc_serve_gateway_(\w+)", text, re.MULTILINE)

    assert named == set(typed)
