"""The folder of a batch: all names in it, and the word that controls the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.state import directory, files

if TYPE_CHECKING:
    from pathlib import Path

TODO, DOING, DONE = "todo", "doing", "done"
"""Folders of claims: a chunk is a file that moves from one to the next."""


@dataclass(frozen=True, slots=True)
class BatchFolder:
    """The names in the folder of a batch; no other module knows them.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def of(cls, root: Path, batch: str) -> BatchFolder:
        """Return the folder of a batch, by the state directory and the batch's id."""
        return cls(directory.batch_dir(root, batch))

    @property
    def spec(self) -> Path:
        """The BatchSpec; written last, so that a folder without it is an unfinished intake."""
        return self.path / "spec.json"

    @property
    def engine(self) -> Path:
        """The ServiceSpec of a batch that starts its own engines."""
        return self.path / "engine.json"

    @property
    def home(self) -> Path:
        """The state directory."""
        return self.path.parents[1]

    @property
    def key(self) -> Path:
        """Batch token of a batch that the gateway answers, without engines of its own."""
        return self.path / "key"

    @property
    def control(self) -> Path:
        """A word for the workers: "pause", "cancel" or nothing."""
        return self.path / "control"

    @property
    def intake(self) -> Path:
        """The file whose lock is held while the folder is made."""
        return self.path / "intake"

    @property
    def report(self) -> Path:
        """The final report."""
        return self.path / "report.json"

    @property
    def heartbeats(self) -> Path:
        """Folder of the workers' heartbeats."""
        return self.path / "workers"

    @property
    def jobs(self) -> Path:
        """Folder of the JobHandles, one per job or element of an array."""
        return self.path / "jobs"

    def make_folders(self) -> None:
        """Make the folders of a new batch.

        Raises:
            OSError: a folder cannot be made, or exists.
        """
        claims = [self.path / name for name in (TODO, DOING, DONE)]
        for folder in (*claims, self.path / "answers", self.heartbeats, self.path / "logs"):
            folder.mkdir(mode=0o700)
        self.jobs.mkdir(mode=0o700)

    def claim(self, state: str, name: str) -> Path:
        """Return the file of a claim in one of the states todo, doing and done."""
        return self.path / state / name

    def answers(self, chunk: int, attempt: int) -> Path:
        """Return the file with the answers of one attempt at a chunk."""
        return self.path / "answers" / f"{chunk:07d}.{attempt}"

    def heartbeat(self, worker: str) -> Path:
        """Return the file of a worker's heartbeat."""
        return self.heartbeats / f"{worker}.json"

    def job(self, job_id: str) -> Path:
        """Return the file of a job's JobHandle."""
        return self.jobs / f"{job_id}.json"

    def engine_log(self, worker: str) -> Path:
        """Return the log of a worker's engine."""
        return self.path / "logs" / f"{worker}.engine.log"

    def order(self) -> str:
        """Return the word for the workers: "pause", "cancel", or empty."""
        return (files.read_text(self.control) or "").strip()
