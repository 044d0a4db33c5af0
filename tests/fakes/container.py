"""A container program's stand-in: container.py VERSION PREFIX exec OPTION... SANDBOX PROGRAM ARG...

The program runs from the sandbox's bin, with the variables of the prefix and no others, as
Apptainer (APPTAINERENV_) and SingularityCE (SINGULARITYENV_) have it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

WITH_VALUE = ("--no-mount", "--home", "--pwd", "--bind", "--mount")


def main(version: str, prefix: str, *words: str) -> None:
    """Print the version, or become the program in the sandbox."""
    if words == ("--version",):
        sys.stdout.write(version + "\n")
        return
    left = list(words[1:])
    while left[0].startswith("--"):
        del left[: 2 if left[0] in WITH_VALUE else 1]
    sandbox, name, *argv = left
    env = {
        key.removeprefix(prefix): value
        for key, value in os.environ.items()
        if key.startswith(prefix)
    }
    path = Path(sandbox) / "bin" / name
    os.execve(path, [str(path), *argv], env)


if __name__ == "__main__":
    main(*sys.argv[1:])
