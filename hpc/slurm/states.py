"""Translation of Slurm's states, reasons, times and node lists. Pure."""

from __future__ import annotations

import calendar
import itertools
import re
import time
from typing import TYPE_CHECKING

from hpc.model import JobState, JobStatus
from hpc.slurm import reasons

if TYPE_CHECKING:
    from collections.abc import Iterator

STATES: dict[str, tuple[JobState, str | None]] = {
    "PENDING": (JobState.PENDING, None),
    "CONFIGURING": (JobState.PENDING, "its nodes are booting"),
    "REQUEUED": (JobState.PENDING, "requeued"),
    "REQUEUE_HOLD": (JobState.PENDING, "held after a requeue"),
    "REQUEUE_FED": (JobState.PENDING, "requeued by the federation"),
    "RESV_DEL_HOLD": (JobState.PENDING, "held: its reservation is gone"),
    "SPECIAL_EXIT": (JobState.PENDING, "held after a special exit"),
    "POWER_UP_NODE": (JobState.PENDING, "its nodes are booting"),
    "EXPEDITING": (JobState.PENDING, "requeued after a node failure"),
    "RUNNING": (JobState.RUNNING, None),
    "RESIZING": (JobState.RUNNING, "its size is changing"),
    "SIGNALING": (JobState.RUNNING, "it is being signalled"),
    "SUSPENDED": (JobState.RUNNING, "suspended"),
    "STOPPED": (JobState.RUNNING, "stopped by a signal, keeps its nodes"),
    "UPDATE_DB": (JobState.RUNNING, None),
    "COMPLETING": (JobState.ENDING, None),
    "STAGE_OUT": (JobState.ENDING, "its files are being moved out"),
    "COMPLETED": (JobState.DONE, None),
    "BOOT_FAIL": (JobState.FAILED, "a node did not boot"),
    "CANCELLED": (JobState.FAILED, "cancelled"),
    "DEADLINE": (JobState.FAILED, "its deadline passed"),
    "FAILED": (JobState.FAILED, None),
    "LAUNCH_FAILED": (JobState.FAILED, "it could not be launched"),
    "NODE_FAIL": (JobState.FAILED, "a node failed"),
    "OUT_OF_MEMORY": (JobState.FAILED, "out of memory"),
    "PREEMPTED": (JobState.FAILED, "preempted by another job"),
    "RECONFIG_FAIL": (JobState.FAILED, "a node could not be configured"),
    "TIMEOUT": (JobState.FAILED, "reached its walltime"),
    "REVOKED": (JobState.UNKNOWN, "it runs on another cluster of the federation"),
}
"""All job states of Slurm up to 25.05."""

_STEPD = re.compile(
    r"slurmstepd|srun: "
    # Since Slurm 25.05 no name stands before what slurmstepd writes, and so its sentences tell it.
    r"|\[[^\]]+\] error: (StepId=|Exceeded (job|step) memory|Detected \d+ oom|\*\*\* (JOB|STEP) )"
)
_ENDINGS = {
    "oom_kill": "out of memory",
    "oom-kill": "out of memory",
    "oom killed": "out of memory",
    "exceeded memory limit": "out of memory",
    "exceeded job memory limit": "out of memory",
    "due to time limit": "reached its walltime",
    "due to preemption": "preempted by another job",
    "due to node failure": "a node failed",
}
"""Texts of slurmstepd at a job's end, in lower case, each with the cause."""
SIGKILL = 9
NO_OUTPUT = 53
"""slurmd's code for a batch script whose output file cannot be opened, shown as a signal."""
NO_OUTPUT_TEXT = "the node cannot write the job's log: its folder is not there, or is read-only"
_TIME = "%Y-%m-%dT%H:%M:%S"
_RANGE = re.compile(r"\[([^\]]*)\]")


def status(
    word: str, *, reason: str = "", nodes: str = "", start: str = "", end: str = "", code: str = ""
) -> JobStatus:
    """Return the status of a job from Slurm's words.

    Args:
        word: state in full; sacct adds " by UID" to CANCELLED.
        reason: Slurm's reason for a wait or an end.
        nodes: a node list, such as ``c[1-3],gpu07``.
        start: UTC time, or N/A and the like.
        end: UTC time, or N/A and the like.
        code: raw wait status (squeue), or ``EXIT:SIGNAL`` (sacct).
    """
    name, _, by = word.partition(" by ")
    name = name.strip().rstrip("+")
    state, text = STATES.get(name, (JobState.UNKNOWN, f"Slurm says {name or 'nothing'}"))
    exit_code, signal = _exit(code) if name in {"COMPLETED", "FAILED"} else (None, 0)
    if name == "FAILED":
        text = _failure(exit_code, signal, reason)
    elif name == "CANCELLED" and by:
        text = f"cancelled by uid {by.strip()}"
    elif state is JobState.PENDING:
        # A state that says "held" says more than a reason such as BeginTime.
        text = text if reasons.blocks(text) else reasons.explain(reason) or text
    return JobStatus(
        state=state,
        reason=text,
        nodes=expand_nodes(nodes),
        start_at=when(start),
        end_at=None if state is JobState.PENDING else when(end),
        exit_code=exit_code,
        blocked=state is JobState.PENDING and reasons.blocks(text),
    )


def exit_reason(log: str) -> str | None:
    """Return Slurm's cause of a job's end, from slurmstepd's lines in the job's own log, or None.

    The log exists without accounting too, and names memory when the job's state does not.

    Args:
        log: the end of the job's standard error.
    """
    told = [line for line in log.splitlines() if _STEPD.match(line)]
    for mark, cause in _ENDINGS.items():
        if any(mark in line.lower() for line in told):
            return cause
    return None


def when(text: str) -> float | None:
    """Return a UTC time as Unix seconds; None for N/A, NONE, Unknown and other texts."""
    try:
        return float(calendar.timegm(time.strptime(text.strip(), _TIME)))
    except ValueError:
        return None


def expand_nodes(text: str) -> tuple[str, ...]:
    """Return the nodes of a Slurm node list: ``c[1-2],g07`` is c1, c2, g07.

    Args:
        text: list as in squeue and sacct; one name may hold several ranges.
    """
    if text.strip() in {"", "(null)", "None", "None assigned", "n/a"}:
        return ()
    groups = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text.strip())
    return tuple(name for group in groups for name in _expand_group(group))


def array_elements(job_id: str) -> tuple[str, ...]:
    """Return the jobs of a squeue row: ``7_[0-1,4%2]`` is 7_0, 7_1, 7_4."""
    base, _, rest = job_id.partition("_")
    if not rest.startswith("["):
        return (job_id,)
    numbers = rest.strip("[]").split("%", maxsplit=1)[0]
    return tuple(f"{base}_{n}" for n in _expand_range(numbers)) or (job_id,)


def _expand_group(group: str) -> Iterator[str]:
    parts = _RANGE.split(group)
    choices = [
        list(_expand_range(part)) if number % 2 else [part] for number, part in enumerate(parts)
    ]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _expand_range(text: str) -> Iterator[str]:
    for part in text.split(","):
        low, dash, high = part.partition("-")
        high, _, step = high.partition(":")
        if dash and low.isdigit() and high.isdigit():
            numbers = range(int(low), int(high) + 1, int(step) if step.isdigit() else 1)
            yield from (str(number).zfill(len(low)) for number in numbers)
        elif part.isdigit():
            yield part


def _exit(code: str) -> tuple[int | None, int]:
    """Return exit code or signal from ``3:0`` or from a wait status such as 768."""
    first, colon, second = code.strip().partition(":")
    if not first.isdigit():
        return None, 0
    if colon:
        exit_code, signal = int(first), int(second) if second.isdigit() else 0
    else:
        exit_code, signal = int(first) >> 8, int(first) & 0x7F
    return (None if signal else exit_code), signal


def _failure(exit_code: int | None, signal: int, reason: str) -> str:
    if signal == NO_OUTPUT:
        return NO_OUTPUT_TEXT
    if signal:
        # On sites that sample memory instead of confining by cgroups, an out-of-memory kill by
        # Slurm is reported as FAILED.
        perhaps = ", perhaps for lack of memory" if signal == SIGKILL else ""
        return f"killed by signal {signal}{perhaps}"
    why = reasons.explain(reason)
    if exit_code and why is None:
        return f"exit status {exit_code}"
    return why or "it failed"
