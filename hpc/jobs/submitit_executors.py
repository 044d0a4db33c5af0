"""Submitit's executors, with our batch script and with a controller that outlives us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from submitit.core.core import Job
    from submitit.core.utils import DelayedSubmission

    from hpc.slurm import Submitted


class Slurm(SlurmExecutor):
    """Submitit's Slurm executor with our batch script, in a temporary staging folder.

    Args:
        staging: folder of submitit's files, which is moved or removed afterwards.
        command: the shell command by which submitit runs a task.
        text: the batch script.
        send: submits a script, and returns the job.
    """

    def __init__(
        self, staging: Path, command: str, text: str, send: Callable[[Path], Submitted]
    ) -> None:
        super().__init__(staging)
        self._command = command
        self._text = text
        self._send = send

    @classmethod
    def affinity(cls) -> int:
        """Return a rank that marks this executor as available, even without srun."""
        return 2

    @property
    def _submitit_command_str(self) -> str:
        return self._command

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[Job[Any]]:
        """Submit as submitit does, but keep our script for arrays too."""
        if len(delayed_submissions) == 1:
            return super()._internal_process_submissions(delayed_submissions)
        pickles = [self.folder / f"{n}.pkl" for n in range(len(delayed_submissions))]
        for delayed, pickle in zip(delayed_submissions, pickles, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(pickle)
        # submitit's own array code would submit through another executor, with its own script.
        array = self._submit_command(self._command).job_id
        jobs: list[Job[Any]] = []
        for n, pickle in enumerate(pickles):
            jobs.append(SlurmJob(folder=self.folder, job_id=f"{array}_{n}"))
            jobs[n].paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs

    def _submit_command(self, command: str) -> SlurmJob[Any]:
        """Submit our script; submitit would take the first "job 47" of any output for the id."""
        del command
        script = self.folder / ".submission.sh"
        script.write_text(self._text, encoding="utf-8")
        job: SlurmJob[Any] = SlurmJob(folder=self.folder, job_id=self._send(script).job_id)
        job.paths.move_temporary_file(script, "submission_file")
        return job


class Local(LocalExecutor):
    """Submitit's local executor with a controller that outlives our terminal.

    Args:
        staging: folder of submitit's files, which is moved or removed afterwards.
        command: the shell command by which submitit runs a task.
        start: starts the controller with a command, and returns its process id.
    """

    def __init__(self, staging: Path, command: str, start: Callable[[str], int]) -> None:
        super().__init__(staging)
        self._command = command
        self._start = start

    @property
    def _submitit_command_str(self) -> str:
        return self._command

    def _submit_command(self, command: str) -> LocalJob[Any]:
        return LocalJob(folder=self.folder, job_id=str(self._start(command)))
