"""The line of a job's log that tells its end."""

from __future__ import annotations

import pytest

from hpc.jobs.last_words import last_words

NO_MODULE = """\
/var/spool/slurmd/job00017/slurm_script: line 24: module: command not found
a setup line of the job failed: module load apptainer
"""
NO_PYTHON = """\
/var/spool/slurmd/job00017/slurm_script: line 31: /opt/venv/bin/python: No such file or directory
"""
READ_ONLY = """\
submitit INFO (2026-11-30 08:00:00,000) - Starting with JobEnvironment(job_id=17)
2026-11-30 08:00:01,003 hpc.node.heartbeat phase STARTING
submitit ERROR (2026-11-30 08:00:02,000) - Submitted job triggered an exception
Traceback (most recent call last):
  File "/opt/hpc/node/replica.py", line 9, in run
    self._serve()
OSError: [Errno 30] Read-only file system: '/home/ada/.cache'
"""
NO_SCONTROL = """\
submitit WARNING (2026-11-30 08:00:00,000) - Caught signal SIGUSR2 on n17: this job is timed-out.
Traceback (most recent call last):
  File "/usr/lib/python3.11/subprocess.py", line 1955, in _execute_child
    raise child_exception_type(errno_num, err_msg, err_filename)
FileNotFoundError: [Errno 2] No such file or directory: 'scontrol'
slurmstepd: error: *** JOB 17 ON n17 CANCELLED AT 2026-11-30T08:00:05 ***
"""


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            (NO_MODULE, ""),
            "a setup line of the job failed: module load apptainer (module: command not found)",
        ),
        ((NO_PYTHON, ""), "/opt/venv/bin/python: No such file or directory"),
        ((READ_ONLY, ""), "OSError: [Errno 30] Read-only file system: '/home/ada/.cache'"),
        ((NO_SCONTROL, ""), "FileNotFoundError: [Errno 2] No such file or directory: 'scontrol'"),
        (("slurmstepd: error: x\n", "the site's prolog says: no\n"), "the site's prolog says: no"),
        (("", "\n  \n"), None),
        (("a setup line of the job failed: false\n",), "a setup line of the job failed: false"),
        (("x" * 1000,), "x" * 300),
    ],
)
def test_the_last_line_with_a_meaning_is_found(logs: tuple[str, ...], line: str | None) -> None:
    assert last_words(*logs) == line
