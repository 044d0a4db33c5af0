"""SIGTERM in a job, by which Slurm announces the job's end."""

from __future__ import annotations

import signal


class Terminated(BaseException):
    """A request by Slurm or a user to end the job.

    Not an ``Exception``, just as KeyboardInterrupt: Slurm sends SIGCONT just before, and the
    handler of a log line being written about SIGCONT would swallow an ``Exception``.
    """


def listen() -> None:
    """Make the first SIGTERM leave the main loop; all cleaning up happens outside the handler.

    Raises:
        Terminated: later, from any point of the main thread.
    """
    signal.signal(signal.SIGTERM, _leave)


def deaf() -> None:
    """Ignore SIGTERM from now on: a second SIGTERM would leave the shutdown half-done."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _leave(number: int, frame: object) -> None:
    del frame
    deaf()
    raise Terminated(signal.Signals(number).name)
