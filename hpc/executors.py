"""Submitit's executors, with our batch script and with a controller that outlives us."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

import hpc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from submitit.core.core import Job
    from submitit.core.utils import DelayedSubmission


class Slurm(SlurmExecutor):
    """Submitit's executor with our text; its files lie in a folder that is moved or removed.

    Args:
        staging: that folder.
        command: the shell command by which submitit runs a task.
        text: the batch script.
        hide: variables of ours that sbatch must not see.
    """

    def __init__(self, staging: Path, command: str, text: str, hide: Sequence[str]) -> None:
        super().__init__(staging)
        self._command = command
        self._text = text
        self._hide = hide

    @classmethod
    def affinity(cls) -> int:
        """Count as available: our scripts need no srun, which submitit looks for."""
        return 2

    @property
    def _submitit_command_str(self) -> str:
        return self._command

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[Job[Any]]:
        """Submit as submitit does, whose arrays are another executor's, with its own script."""
        if len(delayed_submissions) == 1:
            return super()._internal_process_submissions(delayed_submissions)
        pickles = [self.folder / f"{n}.pkl" for n in range(len(delayed_submissions))]
        for delayed, pickle in zip(delayed_submissions, pickles, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(pickle)
        array = self._submit_command(self._command).job_id
        jobs: list[Job[Any]] = []
        for n, pickle in enumerate(pickles):
            jobs.append(SlurmJob(folder=self.folder, job_id=f"{array}_{n}"))
            jobs[n].paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        del command, uid
        return self._text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        hidden = [word for name in self._hide for word in ("-u", name)]
        extra = [f"{name}={value}" for name, value in safe_path().items()]
        return ["env", *hidden, *extra, "sbatch", str(submission_file_path)]


class Local(LocalExecutor):
    """Submitit's executor with a controller that outlives our terminal.

    Args:
        staging: folder of its files, which is moved or removed.
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


def safe_path() -> dict[str, str]:
    """Return what keeps modules of the user's folder out of a job's Python (3.11 and newer).

    Nothing where we ourselves come from that folder.
    """
    ours = Path(hpc.__file__).resolve().parent.parent
    return {} if ours == Path.cwd() else {"PYTHONSAFEPATH": "1"}
