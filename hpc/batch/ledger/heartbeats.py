"""Worker heartbeats of a batch, and the detection of workers that have died."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc.batch.folder import DOING, BatchFolder
from hpc.batch.ledger import claims
from hpc.batch.model import BatchWorker
from hpc.state import directory, records

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpc.batch.ledger.filesystem import FileSystem

LATE_S = 1.5 * directory.BEAT_S
"""Seconds without a heartbeat after which the scheduler is asked about the job."""


def load(folder: Path, name: str) -> BatchWorker | None:
    """Return a worker's last heartbeat, or None."""
    return records.read_record(BatchFolder(folder).heartbeat(name), BatchWorker)


def load_all(files: FileSystem, folder: Path) -> list[BatchWorker]:
    """Return the last heartbeats of all workers."""
    names = [name.removesuffix(".json") for name in files.names(BatchFolder(folder).heartbeats)]
    # Names with a dot are files being written (see state.write_text).
    found = (load(folder, name) for name in names if not name.startswith("."))
    return [one for one in found if one is not None]


@dataclass(slots=True)
class Monitor:
    """The detection of dead workers, by the machine's clock, since the nodes' clocks differ.

    Attributes:
        folder: the batch.
        me: name of this worker.
        job_id: job of this worker.
        stale_s: seconds without a new heartbeat until a worker counts as dead.
        ended: asks the scheduler whether the job of a late worker has ended.
    """

    folder: Path
    me: str
    job_id: str
    stale_s: float = directory.STALE_S
    ended: Callable[[str], bool] = lambda _: False
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def gone(self, files: FileSystem) -> set[str]:
        """Return the holders of chunks that have died."""
        held = {claim.worker for claim in claims.listed(files, self.folder, DOING)}
        return {name for name in held if name != self.me and self._is_gone(name)}

    def _is_gone(self, name: str) -> bool:
        said = load(self.folder, name)
        # A job runs once at a time: any other worker name of this job is an earlier, dead run.
        if said is not None and (said.ended or said.job_id == self.job_id):
            return True
        beat = said.beat_at if said else 0.0
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        # The beat's own time is only compared for change: clocks of nodes differ by seconds.
        if before != beat:
            self._seen[name] = (beat, now)
            return False
        late_s = now - since
        if said is not None and late_s > LATE_S and self.ended(said.job_id):
            return True
        return late_s > self.stale_s
