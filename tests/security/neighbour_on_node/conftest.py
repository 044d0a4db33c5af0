"""Fixtures: a state directory, and replicas of the model ``m`` behind one engine."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc.state import directory, files
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import (
    Running,
    run_sidecar,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Place:
    """A state directory with replicas, each a real sidecar in front of the same engine."""

    home: Path
    folder: Path
    engine: Engine
    upstream: str
    tls: bool
    stack: contextlib.ExitStack

    def replica(self, number: int = 0, *, port: int = 0, secret: str | None = None) -> Running:
        """Start a replica, with its secret and record as a node process leaves them."""
        where = self.folder / f"replica-{number}"
        where.mkdir(exist_ok=True)
        known = secret or directory.new_secret(self.home, "m", number)
        files.write_text(directory.secret_path(self.home, "m", number), known)
        more = ("--port", str(port))
        found = self.stack.enter_context(
            run_sidecar(where, ["--upstream-unix", self.upstream], *more, tls=self.tls, key=known)
        )
        save_replica(self.home, found.url, number=number, certificate=found.certificate)
        return found

    def beat(self) -> None:
        """Publish a heartbeat, as a node process does that outlives its sidecar."""
        record = directory.load_endpoint(self.home, "m", 0)
        assert record is not None
        beat_at = time.time() + directory.STALE_S - 5
        directory.save_endpoint(self.home, replace(record, beat_at=beat_at))


@pytest.fixture(params=["plain", "TLS"])
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    """Return a place for replicas, with and without TLS."""
    engine, home = Engine(), directory.home(str(tmp_path / "home"))
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(serve(engine, tmp_path / "engine.sock"))
        save_service(home, replicas=2)
        yield Place(home, tmp_path, engine, upstream, request.param == "TLS", stack)


def kill(replica: Running) -> None:
    """End a sidecar as the kernel does when memory is short; its port is then anybody's."""
    replica.process.kill()
    replica.process.wait()


def wait_ready(gateway: Running, count: int) -> None:
    """Wait until the gateway knows so many replicas that take requests."""

    def ready() -> bool:
        with gateway.client() as client:
            found = client.get("/v1/models/m").json()
        return bool(found.get("replicas", {}).get("ready") == count)

    wait_until(ready)
