"""What holds for every test: which signals it knows, and in which order files are handed out."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# A test run that a script starts in the background, or under nohup, ignores these signals, and so
# would all programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test looks a model up at Hugging Face, unless it has a Hub of its own on loopback.
os.environ["HF_HUB_OFFLINE"] = "1"

# Hypothesis would fail an example that takes 0.2 s, or data that takes a second to be made: both
# say how fast the machine is.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Workers take one file after the other: what takes longest is handed out first, so that no worker
# is left alone with minutes of it at the end, when the quick rest would have filled the others.
LONG_FIRST = (
    "tests/lab/product/test_batch.py",
    "tests/lab/product/test_engine_images.py",
    "tests/lab/product/test_end_to_end.py",
    "tests/lab/product/test_failures.py",
    "tests/lab/product/",
    "tests/lab/",
    "tests/contract/",
    "tests/engine/",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files for the workers of pytest-xdist; one process alone keeps pytest's order."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    found = (rank for rank, start in enumerate(LONG_FIRST) if nodeid.startswith(start))
    return next(found, len(LONG_FIRST))
