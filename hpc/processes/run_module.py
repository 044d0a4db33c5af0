"""The start of a module of our own as a program: run_module.py MODULE ARGV...

``python -m`` would search the working folder first, in which other users may have put a module of
the same name. PYTHONSAFEPATH prevents that from Python 3.11 on only. Of a program that is named by
its path, Python searches the program's folder instead, on all versions; that folder, this one, is
left out here.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(module: str) -> None:
    """Run a module as ``python -m`` does, without the working folder on the search path."""
    if not getattr(sys.flags, "safe_path", False):  # Python 3.10 has no such flag
        del sys.path[0]
    # A checkout that is not installed: the caller's modules are those of the program, too.
    ours = str(Path(__file__).parents[2])
    if ours not in sys.path:
        sys.path.insert(0, ours)
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
