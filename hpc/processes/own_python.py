"""Our own modules as programs, started from folders in which foreign users may write."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LAUNCHER = Path(__file__).absolute().with_name("run_module.py")
SEARCHED = "PYTHONPATH"
FOLDERS = ("PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX")
"""Variables with one folder of code each."""


def argv(module: str, *words: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return the command that runs one of our modules, or of our dependencies.

    Args:
        module: the module's name, as for ``python -m``.
        words: the module's arguments.
        options: options of Python, such as ``-u``.
    """
    return [sys.executable, *options, str(LAUNCHER), module, *words]


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables for such a program, without folders of code relative to the working folder.

    An empty entry, as ``PYTHONPATH=/lib:`` has one, is the working folder: Python would run a
    sitecustomize.py in it before any line of ours.

    Args:
        base: the variables to start from; None means ours.
    """
    found = dict(os.environ if base is None else base)
    entries = [one for one in found.pop(SEARCHED, "").split(os.pathsep) if Path(one).is_absolute()]
    if entries:
        found[SEARCHED] = os.pathsep.join(entries)
    return {name: text for name, text in found.items() if name not in FOLDERS or _absolute(text)}


def for_others(base: Mapping[str, str]) -> dict[str, str]:
    """Return a job's variables for a program that is not ours, such as an engine.

    A job has PYTHONSAFEPATH set for our own modules; a script of others may import the modules
    beside it.
    """
    return {name: text for name, text in base.items() if name != "PYTHONSAFEPATH"}


def _absolute(text: str) -> bool:
    return all(Path(one).is_absolute() for one in text.split(os.pathsep))
