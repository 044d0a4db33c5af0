"""The overview: phases in numbers, one reason, and the step that comes next."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hpc.cli import overview
from hpc.model import JobState, JobStatus, Phase, ServiceSpec
from hpc.services.phase import ReplicaView, Service

RUNNING = {
    "address": "127.0.0.1:8081",
    "hostname": "login",
    "up": "8m00s",
    "state": "running",
}


def service(name: str, *replicas: tuple[Phase, str | None]) -> Service:
    """Return a service with replicas in given phases."""
    status = JobStatus(JobState.RUNNING, nodes=("c1",))
    views = tuple(
        ReplicaView(number, phase, note, None, status, None)
        for number, (phase, note) in enumerate(replicas)
    )
    return Service(ServiceSpec(name, "llamacpp", "llama-server", f"/models/{name}.gguf"), views)


def seen(*services: Service, gateways: tuple[dict[str, Any], ...] = ()) -> overview.Overview:
    """Return an overview without batches and schedules."""
    return overview.Overview(services, gateways, 2, (), ())


READY = service("tiny", (Phase.READY, None), (Phase.READY, None))
MIXED = service(
    "other", (Phase.READY, "a note on what is ready"), (Phase.QUEUED, "waits for free resources")
)
FAILED = service("mistral", (Phase.FAILED, "out of memory"))
LOADING = service("slow", (Phase.LOADING, None))


@pytest.mark.parametrize(
    ("found", "step"),
    [
        (seen(), "hpc-serve submit NAME, or hpc-serve init for a first models.yaml"),
        (seen(READY, FAILED), "hpc-serve logs mistral"),
        (seen(READY, LOADING), "hpc-serve wait slow"),
        (seen(READY), "hpc-serve gateway start"),
        (seen(READY, gateways=({**RUNNING, "state": "gone"},)), "hpc-serve gateway start"),
    ],
)
def test_the_next_step_is_what_stands_in_the_way(found: overview.Overview, step: str) -> None:
    assert overview.next_step(found) == step


def test_a_service_with_a_gateway_can_be_asked() -> None:
    step = overview.next_step(seen(READY, gateways=(RUNNING,)))
    assert step.startswith('hpc-serve chat tiny "Hello", or on a laptop: hpc-serve connect USER@')


def test_phases_are_counted_and_the_first_reason_stands_beside(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "look", lambda _: seen(READY, MIXED, gateways=(RUNNING,)))
    overview.show(None, watch=False, as_json=False)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "SERVICE  MODEL       READY  NODES  ENDS IN  STATE",
        "tiny     tiny.gguf   2/2    c1     -        2 READY",
        "other    other.gguf  1/2    c1     -        1 QUEUED, 1 READY: waits for free resources",
    ]
    assert lines[4:6] == [
        "GATEWAY         MACHINE  UP     KEYS  STATE",
        "127.0.0.1:8081  login    8m00s  2     running",
    ]


def test_nothing_is_said_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "look", lambda _: seen())
    overview.show(None, watch=False, as_json=False)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines()[0].startswith("nothing runs")


def test_json_has_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "look", lambda _: seen(READY, gateways=(RUNNING,)))
    overview.show(None, watch=False, as_json=True)  # type: ignore[arg-type]
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found["services"]] == ["tiny"]
    assert found["gateways"] == [RUNNING]
    assert set(found) == {"services", "gateways", "keys", "batches", "schedules", "next"}
