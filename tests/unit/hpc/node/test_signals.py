"""SIGTERM in a job of ours."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import pytest

from hpc.node import signals

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class _Interrupted(logging.StreamHandler):  # type: ignore[type-arg]
    """Gets SIGTERM in the middle of a line."""

    def format(self, record: logging.LogRecord) -> str:
        signal.raise_signal(signal.SIGTERM)
        return super().format(record)


def test_a_line_that_is_being_logged_does_not_swallow_it() -> None:
    """Slurm sends SIGCONT first, and submitit logs that."""
    log = logging.getLogger("a job")
    log.addHandler(_Interrupted())
    log.propagate = False
    signals.listen()

    with pytest.raises(signals.Terminated, match="SIGTERM"):
        log.warning("Bypassing signal SIGCONT")


def test_the_second_does_not_disturb_the_end() -> None:
    """KillWait is long, and people press scancel twice."""
    signals.listen()
    with pytest.raises(signals.Terminated):
        signal.raise_signal(signal.SIGTERM)

    signal.raise_signal(signal.SIGTERM)
