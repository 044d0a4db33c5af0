"""The last meaningful line of a job's own log, for an end without any other cause.

A job may die before or beside our code: a shell without ``module``, a missing interpreter, a full
file system. Slurm then knows an exit status alone, and the line is the cause.
"""

from __future__ import annotations

import re

SHOWN = 300
NOISE = re.compile(
    r"submitit (?:INFO|WARNING|ERROR) "  # submitit's own account of the run
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ \S+ phase "  # a replica's phases
    r"|slurmstepd: |\[[^\]]+\] error: \*\*\* (?:JOB|STEP) "  # Slurm's end of the job
    r"|Traceback \(most recent call last\):|During handling of the above|The above exception was"
    r"|\s"  # frames of a traceback
)
SHELL = re.compile(r"^\S*(?:slurm_script|\.sh|/bash|^bash): (?:line \d+: )?")
SETUP = "a setup line of the job failed: "
"""Beginning of the line that a batch script's trap prints after the shell's own."""


def last_words(*logs: str) -> str | None:
    """Return the last meaningful line of the first log that has one; None without any.

    Args:
        logs: ends of the job's outputs, the errors first.
    """
    for log in logs:
        said = [line.rstrip() for line in log.splitlines()]
        lines = [SHELL.sub("", line) for line in said if line and not NOISE.match(line)]
        if lines:
            return _joined(lines)[:SHOWN]
    return None


def _joined(lines: list[str]) -> str:
    """Return the last line; for a failed setup line, with the shell's reason before it."""
    last = lines[-1]
    if last.startswith(SETUP) and len(lines) > 1:
        return f"{last} ({lines[-2]})"
    return last
