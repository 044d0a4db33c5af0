"""The lab as pytest fixtures; every test below this folder is marked `lab`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.slurmlab import Lab, LabError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent
# Seconds a test may take when it does not say; the first one may have to build the nodes.
TIMEOUT = 3000
# Whether slurmdbd runs where a test does not say.
ACCOUNTING = os.environ.get("HPC_SERVE_LAB_ACCOUNTING") == "on"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the lab."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what Slurm says of itself to the report of a failure."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("the lab", lab.report()))
    return report


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a lab that has just started, by default without accounting, and stop it at the end.

    Each worker of pytest-xdist has a lab of its own, named after it. Where a lab cannot start, the
    tests are skipped with the reason, and in CI they fail.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    lab = Lab(f"{Lab().name}-{worker}" if worker else None, tied=True)
    with ExitStack() as held:
        try:
            held.enter_context(lab.locked())
            lab.up(accounting=ACCOUNTING)
        except LabError as error:
            if os.environ.get("CI", "").lower() in {"1", "true"}:
                raise
            pytest.skip(f"no lab: {error}")
        held.callback(lab.down)
        yield lab


@pytest.fixture
def accounting(lab: Lab) -> Iterator[None]:
    """Run the test with Slurm's accounting on."""
    lab.set_accounting(on=True)
    yield
    lab.set_accounting(on=ACCOUNTING)


@pytest.fixture
def no_accounting(lab: Lab) -> Iterator[None]:
    """Run the test with Slurm's accounting off."""
    lab.set_accounting(on=False)
    yield
    lab.set_accounting(on=ACCOUNTING)
