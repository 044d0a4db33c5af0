"""What a command on another machine tells of the addresses of a ready replica."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc.model import Endpoint, JobState, JobStatus, Phase, ServiceSpec
from hpc.services import reach
from hpc.services.phase import ReplicaView, Service
from hpc.state import directory
from tests.contract.gateway.programs import run_sidecar

if TYPE_CHECKING:
    from pathlib import Path

SPEC = ServiceSpec(name="m", engine="vllm", server="vllm", model="org/m")
UNKNOWN = "no-such-node.invalid"


def service(port: int, host: str, *addresses: str, phase: Phase = Phase.READY) -> Service:
    endpoint = Endpoint("m", 0, "m", host, port, phase, "7", None, 0.0, addresses=addresses)
    view = ReplicaView(0, phase, None, None, JobStatus(JobState.RUNNING), endpoint)
    return Service(SPEC, (view,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = directory.home(str(tmp_path / "state"))
    directory.save_spec(found, SPEC)
    return found


def test_the_attempts_at_a_ready_replica_are_told(root: Path, tmp_path: Path) -> None:
    secret = directory.new_secret(root, "m", 0)
    with run_sidecar(tmp_path, ["--upstream-port", "1"], key=secret) as sidecar:
        port = sidecar.port
        assert reach.notes(root, service(port, "127.0.0.1", UNKNOWN)) == {}
        (told,) = reach.notes(root, service(port, UNKNOWN, "127.0.0.1")).values()
        assert told.startswith(f"reached at 127.0.0.1, not at {UNKNOWN}: ")
        (told,) = reach.notes(root, service(port, UNKNOWN, "127.0.0.2")).values()
        assert told.startswith(f"not reached from {socket.gethostname()}: {UNKNOWN}: ")
        assert "127.0.0.2: connection refused" in told
        directory.new_secret(root, "m", 0)
        (told,) = reach.notes(root, service(port, "127.0.0.1")).values()
        assert "the far end does not hold the replica's secret" in told
    found = reach.with_notes(root, service(port, "127.0.0.1"))
    assert "127.0.0.1: connection refused" in str(found.replicas[0].note)


def test_a_replica_that_is_not_ready_is_not_tried(root: Path) -> None:
    assert reach.notes(root, service(1, "127.0.0.1", phase=Phase.LOADING)) == {}
    found = service(0, "127.0.0.1")
    assert reach.notes(root, found) == {}
    assert reach.with_notes(root, replace(found, replicas=())).replicas == ()
