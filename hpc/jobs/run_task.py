"""The program of a job: run_task.py FOLDER, which runs the task that submitit left in a folder.

A task is a pickle, and a pickle is code: a user who could put another folder in the place of ours,
or write into ours, would run code as us. The job may start days after its submission, so the job
itself looks at the way to the pickle first.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from hpc.errors import StateError
from hpc.state import private, trust

WAIT_S = 60.0
"""Seconds for a pickle's arrival: a job may start before the submission has moved the pickle."""
POLL_S = 0.1


def check(pickle: Path) -> None:
    """Refuse a pickle that others could have written, or put in the place of ours.

    Raises:
        StateError: names the weakness and its repair.
    """
    try:
        weak = trust.weak_folder(pickle)
        owner = pickle.stat().st_uid
    except OSError as error:
        raise StateError(f"cannot look at the job's task {pickle}: {error.strerror}") from error
    if weak is not None:
        raise StateError(f"the job's task is not run: {weak.text}", hint=weak.repair)
    if owner != os.getuid():
        raise StateError(f"the job's task is not run: {pickle} belongs to uid {owner}, not to you")


def main() -> None:
    """Check the job's pickle, then run it as submitit does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--umask", type=lambda text: int(text, 8), help="umask for results, in octal digits"
    )
    options = parser.parse_args()
    private.keep_files(options.umask)
    private.keep_memory()
    from submitit.core import job_environment, submission  # noqa: PLC0415 - after the umask

    os.environ["SUBMITIT_FOLDER"] = str(options.folder)
    pickle = job_environment.JobEnvironment().paths.submitted_pickle
    deadline = time.monotonic() + WAIT_S
    while not pickle.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)
    try:
        check(pickle)
    except StateError as error:
        sys.exit(f"hpc-serve: {error}" + (f"\n  {error.hint}" if error.hint else ""))
    submission.process_job(options.folder)


if __name__ == "__main__":
    main()
