"""Tasks that local jobs of the tests run; picklable by reference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Show:
    """Writes down where it runs."""

    path: str

    def __call__(self) -> None:
        """Write session, terminal and variables."""
        stdin = str(Path("/proc/self/fd/0").readlink())
        words = [str(os.getsid(0)), stdin, os.environ.get("CUDA_VISIBLE_DEVICES", "unset")]
        Path(self.path).write_text("\n".join([*words, *sorted(os.environ)]))


@dataclass(frozen=True)
class Fail:
    """Raises."""

    def __call__(self) -> None:
        """Raise."""
        raise ValueError("the model is missing\nsee above")


@dataclass(frozen=True)
class Drain:
    """Ends by itself on SIGTERM."""

    path: str

    def __call__(self) -> None:
        """Sleep until told to end."""
        signal.signal(signal.SIGTERM, self.on_term)
        Path(self.path).write_text("ready")
        time.sleep(60)

    def on_term(self, number: int, frame: object) -> None:
        """Write that we were told, and end."""
        Path(self.path).write_text("told")
        sys.exit(0)


@dataclass(frozen=True)
class Stubborn:
    """Ignores SIGTERM, and has a child in a session of its own that does so too."""

    path: str

    def __call__(self) -> None:
        """Sleep, whatever is said."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"], start_new_session=True)
        Path(self.path).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(60)


@dataclass(frozen=True)
class Again:
    """Counts how often it was started; asks to be started again on the signal before the end."""

    path: str

    def __call__(self) -> None:
        """Count, and sleep."""
        with Path(self.path).open("a") as file:
            file.write("x")
        time.sleep(60)

    def checkpoint(self) -> Any:
        """Hand submitit the same task."""
        from submitit.core.utils import DelayedSubmission  # noqa: PLC0415 - only in a job

        return DelayedSubmission(self)
