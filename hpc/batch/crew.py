"""Workers as they see each other: a heartbeat each, and who will not come back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc import state
from hpc.batch import chunks
from hpc.batch.model import BatchWorker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpc.batch.files import Files

LATE_S = 1.5 * state.BEAT_S
"""Seconds without a heartbeat after which the scheduler is worth a question."""


def record_path(folder: Path, name: str) -> Path:
    """Return what a worker writes of itself."""
    return folder / "workers" / f"{name}.json"


def load(folder: Path, name: str) -> BatchWorker | None:
    """Return what a worker last said of itself, or None."""
    return state.read_record(record_path(folder, name), BatchWorker)


def load_all(files: Files, folder: Path) -> list[BatchWorker]:
    """Return what all workers last said."""
    names = [name.removesuffix(".json") for name in files.names(folder / "workers")]
    found = (load(folder, name) for name in names if not name.startswith("."))
    return [one for one in found if one is not None]


@dataclass(slots=True)
class Watch:
    """Judges heartbeats by our own clock, since nodes' clocks differ.

    Attributes:
        stale_s: seconds without a new heartbeat after which a worker is gone.
        ended: asks the scheduler about the job of one whose heartbeat is late.
    """

    folder: Path
    me: str
    job_id: str
    stale_s: float = state.STALE_S
    ended: Callable[[str], bool] = lambda _: False
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def gone(self, files: Files) -> set[str]:
        """Return the holders of chunks that will not come back."""
        held = {claim.worker for claim in chunks.listed(files, self.folder, chunks.DOING)}
        return {name for name in held if name != self.me and self._is_gone(name)}

    def _is_gone(self, name: str) -> bool:
        said = load(self.folder, name)
        # A job runs once at a time: its other names are those of its earlier runs.
        if said is not None and (said.ended or said.job_id == self.job_id):
            return True
        beat = said.beat_at if said else 0.0
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != beat:
            self._seen[name] = (beat, now)
            return False
        late_s = now - since
        if said is not None and late_s > LATE_S and self.ended(said.job_id):
            return True
        return late_s > self.stale_s
