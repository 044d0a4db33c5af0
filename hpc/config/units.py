"""Slurm's notations of times and memory."""

from __future__ import annotations

import math
import re

UNLIMITED = 0
"""The number of minutes that means no limit."""

TIME_FORMS = "MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED"
MEMORY_FORMS = "a number with K, M, G or T, such as 64G (MiB without a unit)"
NODE_MEMORY_FORMS = f"{MEMORY_FORMS}; 0 is all of the node"

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")
_MEMORY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)(?:i?B)?", re.IGNORECASE)
_MIB = {"K": 1 / 1024, "": 1.0, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024.0}


def parse_time(text: str | int) -> int:
    """Return a Slurm time as whole minutes, rounded up; ``UNLIMITED`` is 0.

    Args:
        text: any form that sbatch reads or squeue writes; a bare number is minutes.

    Raises:
        ValueError: the text is not a Slurm time.
    """
    seconds = parse_seconds(text)
    return UNLIMITED if seconds is None else math.ceil(seconds / 60)


def parse_seconds(text: str | int) -> int | None:
    """Return a Slurm time in seconds; None is UNLIMITED.

    Raises:
        ValueError: the text is not a Slurm time.
    """
    plain = str(text).strip()
    if plain.upper() in {"UNLIMITED", "INFINITE"}:
        return None
    match = _TIME.fullmatch(plain)
    if match is None:
        raise ValueError(f"{plain!r} is not a Slurm time; allowed: {TIME_FORMS}")
    parts = [int(part) for part in match["rest"].split(":")]
    # After days the first number is hours; without days one number is minutes, two are MM:SS.
    if match["days"] is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError(f"{plain!r} is a time of zero; allowed: {TIME_FORMS}")
    return total


def format_time(minutes: int) -> str:
    """Return minutes in the form that sbatch reads, ``D-HH:MM:SS`` from one day on."""
    if minutes == UNLIMITED:
        return "UNLIMITED"
    days, rest = divmod(minutes, 24 * 60)
    clock = f"{rest // 60:02d}:{rest % 60:02d}:00"
    return f"{days}-{clock}" if days else clock


def parse_memory(text: str | int) -> int:
    """Return an amount of memory in MiB, rounded up.

    Args:
        text: any form that sbatch reads; a bare number is MiB.

    Raises:
        ValueError: the text is not an amount of memory.
    """
    match = _MEMORY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{str(text)!r} is not an amount of memory; allowed: {MEMORY_FORMS}")
    mib = math.ceil(float(match["number"]) * _MIB[match["unit"].upper()])
    if mib == 0:
        raise ValueError(f"{str(text)!r} is zero memory; allowed: {MEMORY_FORMS}")
    return mib


def parse_node_memory(text: str | int) -> int:
    """Return an amount of memory in MiB, or 0 for all memory of the node, as sbatch reads it.

    Raises:
        ValueError: the text is not an amount of memory.
    """
    match = _MEMORY.fullmatch(str(text).strip())
    return 0 if match is not None and float(match["number"]) == 0 else parse_memory(text)
