"""SIGTERM in a job of ours: Slurm's way to say that it ends."""

from __future__ import annotations

import signal


class Terminated(BaseException):
    """Slurm, or somebody else, asked this job to end.

    No ``Exception``, as KeyboardInterrupt is none: Slurm sends SIGCONT just before, and a log line
    that is being written about that would swallow it.
    """


def listen() -> None:
    """Make the first SIGTERM leave the main loop; the rest happens outside the handler.

    Raises:
        Terminated: later, from wherever the main thread is.
    """
    signal.signal(signal.SIGTERM, _leave)


def deaf() -> None:
    """Ignore SIGTERM from now on: a second end would leave the first half-done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(number: int, frame: object) -> None:
    del frame
    deaf()
    raise Terminated(signal.Signals(number).name)
