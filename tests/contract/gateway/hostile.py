"""The gateway and the sidecar as hostile clients meet them; for the modules test_hostile_*."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import run_gateway, run_sidecar
from tests.contract.gateway.wire import unharmed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.gateway.programs import Running


@pytest.fixture(scope="module")
def worker() -> Engine:
    """Return the engine behind all tests of a module."""
    return Engine()


@contextlib.contextmanager
def running(kind: str, engine: Engine, folder: Any) -> Iterator[Running]:
    """Run a gateway or a sidecar in front of an engine."""
    with contextlib.ExitStack() as stack:
        if kind == "gateway":
            home = directory.home(str(folder / "home"))
            url = stack.enter_context(serve(engine))
            yield stack.enter_context(run_gateway(home, {"m": url}))
        else:
            path = stack.enter_context(serve(engine, folder / "e.sock"))
            yield stack.enter_context(run_sidecar(folder, ["--upstream-unix", path]))


@pytest.fixture(scope="module", params=["gateway", "sidecar"])
def door(request: Any, worker: Engine, tmp_path_factory: Any) -> Iterator[Running]:
    """Run both kinds of doors, one after the other."""
    with running(request.param, worker, tmp_path_factory.mktemp(request.param)) as front:
        yield front


@pytest.fixture(scope="module")
def gate(worker: Engine, tmp_path_factory: Any) -> Iterator[Running]:
    """Run a gateway."""
    with running("gateway", worker, tmp_path_factory.mktemp("gateway")) as front:
        yield front


@pytest.fixture
def front(door: Running) -> Iterator[Running]:
    """Return a door that has to serve others after the test as before."""
    since = len(door.log.read_text())
    yield door
    unharmed(door, since)


@pytest.fixture
def gateway_only(gate: Running) -> Iterator[Running]:
    """Return a gateway that has to serve others after the test as before."""
    since = len(gate.log.read_text())
    yield gate
    unharmed(gate, since)
