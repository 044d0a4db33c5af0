"""Entries in the user's scrontab; all other lines stay as they are."""

from __future__ import annotations

import os
import re

from hpc.errors import CommandError, SchedulerError
from hpc.processes import programs
from hpc.slurm.command import TIMEOUT_S, environment, run, said

PROGRAM = "scrontab"
BEGIN, END = "# hpc-serve {} begin", "# hpc-serve {} end"
NONE_YET = re.compile(r"(?:scrontab: )?no crontab for \S+\s*")
"""The answer for a user without a scrontab: with exit status 1, and by release on either output."""


def read() -> str | None:
    """Return the user's scrontab; None if the site has no scrontab or denies access."""
    argv, env = [PROGRAM, "-l"], environment(os.environ)
    try:
        result = programs.run(argv, timeout_s=TIMEOUT_S, env=env, check=False, exact=True)
    except CommandError:
        return None
    if any(NONE_YET.fullmatch(text.strip()) for text in (result.stdout, result.stderr)):
        return ""
    return result.stdout if result.returncode == 0 else None


def put(name: str, lines: list[str]) -> None:
    """Write an entry, in place of an older entry of the name; all other lines stay as they are.

    Args:
        name: name of the entry.
        lines: lines in the syntax of scrontab(1).

    Raises:
        SchedulerError: Slurm refuses the scrontab, or has no scrontab.
    """
    kept = without(_current(), name)
    block = "\n".join([BEGIN.format(name), *lines, END.format(name)])
    _write(f"{kept}{block}\n")


def drop(name: str) -> None:
    """Remove an entry, if present.

    Raises:
        SchedulerError: Slurm refuses the remaining scrontab, or has no scrontab.
    """
    text = _current()
    kept = without(text, name)
    if kept != text:
        _write(kept)


def without(text: str, name: str) -> str:
    """Return a scrontab without an entry of ours; every other line is kept byte for byte.

    Raises:
        SchedulerError: a marker of the entry is missing, so the entry's end or begin is unknown.
    """
    begin, end = BEGIN.format(name), END.format(name)
    kept, ours = [], False
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if mark in {begin, end} and ours == (mark == begin):
            raise _unpaired(begin, end)
        ours = ours or mark == begin
        if not ours:
            kept.append(line)
        ours = ours and mark != end
    if ours:
        raise _unpaired(begin, end)
    rest = "".join(kept)
    return rest if not rest or rest.endswith("\n") else rest + "\n"


def _unpaired(begin: str, end: str) -> SchedulerError:
    return SchedulerError(
        f"your scrontab has not both of the lines '{begin}' and '{end}' once, in this order",
        hint="repair the entry, or remove the rest of it, with 'scrontab -e'",
    )


def _current() -> str:
    text = read()
    if text is None:
        raise SchedulerError("Slurm does not show your scrontab")
    return text


def _write(text: str) -> None:
    try:
        run([PROGRAM, "-"], stdin=text, exact=True)
    except CommandError as error:
        raise SchedulerError(f"Slurm did not take the scrontab: {said(error.stderr)}") from error
