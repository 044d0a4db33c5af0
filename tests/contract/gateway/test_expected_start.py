"""What a gateway makes of Slurm's word, with squeue as a program that it runs."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from gateway_lite.catalog.job_status import JobStatuses
from gateway_lite.catalog.scanner import Scanner
from hpc.model import JobHandle, Phase
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import run_gateway, save_replica, save_service, wait_until
from tests.fakes.slurm import FakeSlurm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm.install(tmp_path / "slurm")
    (made.folder / "calls").touch()
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


@pytest.fixture
def scheduler() -> Iterator[JobStatuses]:
    made = JobStatuses(every_s=0.1)
    yield made
    made.close()


def queue(fake: FakeSlurm, home: Path, number: int = 0, **more: Any) -> None:
    """Let the job of a replica be in the queue."""
    job_id = str(100 + number)
    plain: dict[str, Any] = {
        "id": job_id,
        "shown": job_id,
        "state": "PENDING",
        "reason": "Priority",
    }
    plain |= {"start": None, "end": None, "minutes": 60, "code": 0, "restarts": 0, **more}
    (fake.folder / "jobs" / f"{job_id}.json").write_text(json.dumps(plain))
    directory.save_job(home, "m", number, JobHandle(job_id, "slurm", str(home)))


def told(answer: httpx.Response) -> bool:
    return "x-model-expected-start" in answer.headers


@pytest.mark.parametrize("more", [(), ("--workers", "2")])
def test_who_asks_for_a_model_that_waits_is_told_when_it_will_start(
    fake: FakeSlurm, home: Path, more: tuple[str, ...]
) -> None:
    save_service(home)
    starts = int(time.time()) + 3600
    queue(fake, home, start=starts)
    with run_gateway(home, None, *more) as gateway:
        wait_until(lambda: told(gateway.post({})))
        answers = [gateway.post({}) for _ in range(8)]
        wait_until(lambda: all(told(gateway.post({})) for _ in range(8)))
        with gateway.client() as client:
            models = client.get("/version").json()["models"]
    answer = answers[0] if told(answers[0]) else next(filter(told, answers))
    at = datetime.fromtimestamp(starts, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert answer.status_code == 503
    assert answer.headers["x-model-expected-start"] == at
    assert answer.headers["retry-after"] == "120"
    assert answer.headers["x-model-phase"] == "QUEUED"
    assert answer.json()["error"]["message"] == (
        "the model 'm' is not ready: QUEUED; waits behind jobs of higher priority (Priority); "
        f"expected to start at {at}"
    )
    assert models["m"]["jobs"] == ["100"]
    assert len(fake.calls("squeue")) == 1


def test_a_gateway_over_replicas_that_speak_asks_nobody(fake: FakeSlurm, home: Path) -> None:
    save_service(home)
    queue(fake, home, state="RUNNING", start=time.time())
    with serve(Engine()) as url:
        save_replica(home, url, job_id="100", beat_at=time.time() + 30)
        with run_gateway(home) as gateway:
            assert gateway.post({}).status_code == 200
            time.sleep(2.5)
            assert gateway.post({}).status_code == 200
    assert fake.calls("squeue") == []


def test_a_replica_that_fell_silent_serves_while_its_job_runs(fake: FakeSlurm, home: Path) -> None:
    save_service(home)
    queue(fake, home, state="RUNNING", start=time.time() - 600)
    with serve(Engine()) as url:
        save_replica(home, url, job_id="100", beat_at=time.time() - 3600)
        with run_gateway(home) as gateway:
            wait_until(lambda: gateway.post({}).status_code == 200)


def test_a_slurm_that_does_not_answer_changes_nothing(fake: FakeSlurm, home: Path) -> None:
    fake.set(controller="down")
    save_service(home, replicas=2)
    queue(fake, home, start=time.time() + 60)
    with serve(Engine()) as url:
        save_replica(home, url, number=1, job_id="101", beat_at=time.time() + 30)
        with run_gateway(home) as gateway:
            wait_until(lambda: "Slurm did not answer" in gateway.log.read_text())
            assert gateway.post({}).status_code == 200


def test_a_job_is_followed_from_the_queue_to_its_end(
    fake: FakeSlurm, home: Path, scheduler: JobStatuses
) -> None:
    save_service(home)
    queue(fake, home, start=time.time() + 60)
    scanner = Scanner(home, (), scheduler.look)

    def phase() -> Phase:
        return scanner.scan(time.time()).models["m"].phase

    def start() -> float | None:
        return scanner.scan(time.time()).models["m"].members[0].start_at

    assert phase() is Phase.QUEUED
    wait_until(start)
    fake.change("100", state="RUNNING", start=time.time())
    wait_until(lambda: phase() is Phase.STARTING)
    fake.set(controller="down")
    asked = len(fake.calls("squeue"))

    def asked_again() -> bool:
        phase()
        return len(fake.calls("squeue")) > asked + 2

    wait_until(asked_again)
    assert phase() is Phase.STARTING
    fake.set(controller="up")
    fake.change("100", state="FAILED", end=time.time(), code=256)
    wait_until(lambda: phase() is Phase.FAILED)
    (fake.folder / "jobs" / "100.json").unlink()
    asked = len(fake.calls("squeue"))
    for _ in range(10):
        assert phase() is Phase.FAILED
        time.sleep(0.05)
    assert len(fake.calls("squeue")) <= asked + 1
