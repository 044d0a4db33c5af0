"""Fixtures: a state directory, and an engine behind a gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import run_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty state directory."""
    return directory.home(str(tmp_path / "home"))


@pytest.fixture
def engine() -> Engine:
    """Return an engine that is not served yet."""
    return Engine()


@pytest.fixture
def gateway(home: Path, engine: Engine) -> Iterator[Running]:
    """Run a gateway in front of one engine that serves the model ``m``."""
    with serve(engine) as url, run_gateway(home, {"m": url}) as running:
        yield running
