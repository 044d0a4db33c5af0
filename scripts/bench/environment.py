"""The project's virtual environment for the programs that measure; standard library only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def enter() -> None:
    """Run this program again with the environment's Python, unless it is in one already.

    ``HPC_SERVE_VENV`` names another folder than ``.venv``. Without either the program ends with a
    sentence.
    """
    if sys.prefix != sys.base_prefix:
        return
    python = PROJECT / os.environ.get("HPC_SERVE_VENV", ".venv") / "bin/python"
    if not python.exists():
        name = Path(sys.argv[0]).name
        sys.exit(f"{name}: there is no virtual environment {python.parents[1]}: scripts/setup dev")
    os.execv(python, [str(python), *sys.argv])
