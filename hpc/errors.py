"""The deliberate errors of this project.

    HpcServeError
      ConfigError            a file, flag or variable holds a value that is not allowed
      CommandError           a program we ran failed or is not installed
        CommandTimeout       ... or did not answer in time
      SchedulerError         Slurm did not answer, or gave an unusable answer
        SubmitError          ... to a submission
      StateError             the state directory cannot be read or written
      EngineError            a model server did not start or died
      TunnelError            the login node or its gateway cannot be reached
      GatewayError           the gateway did not start or does not answer
      BatchError             a batch cannot go on

A message names the failure and its object, in lower case, without a full stop; ``hint`` names the
next step. Errors are raised where the cause is known, and caught once, in ``hpc.cli``.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class HpcServeError(Exception):
    """The root of the tree; exit code 1.

    Args:
        message: the failure and its object.
        hint: the user's next step, or None.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(HpcServeError):
    """A file, flag or variable holds a value that is not allowed; exit code 2."""

    exit_code = 2


class CommandError(HpcServeError):
    """A program we ran failed, or is not installed; exit code 3.

    Args:
        message: the failure and its object.
        hint: the user's next step, or None.
        returncode: the program's exit status; None if the program never ran.
        stderr: the end of the program's standard error.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        returncode: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.stderr = stderr


class CommandTimeout(CommandError):  # noqa: N818 - as subprocess.TimeoutExpired
    """A program we ran did not answer in time; exit code 3."""


class SchedulerError(HpcServeError):
    """Slurm did not answer, or gave an unusable answer; exit code 4."""

    exit_code = 4


class SubmitError(SchedulerError):
    """Slurm refused a job; exit code 4."""


class StateError(HpcServeError):
    """The state directory cannot be read or written; exit code 5."""

    exit_code = 5


class EngineError(HpcServeError):
    """A model server did not start, or died; exit code 6."""

    exit_code = 6


class TunnelError(HpcServeError):
    """The login node or its gateway cannot be reached; exit code 7."""

    exit_code = 7


class GatewayError(HpcServeError):
    """The gateway did not start, or does not answer; exit code 8."""

    exit_code = 8


class BatchError(HpcServeError):
    """A batch cannot go on; exit code 9."""

    exit_code = 9


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return a suggestion such as `` (did you mean 'status'?)``, or nothing.

    Args:
        word: the name as typed.
        names: names that exist.
    """
    found = get_close_matches(word, sorted(set(names)), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
