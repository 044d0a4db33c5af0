"""The way Slurm's programs are run: with a time limit, in English, without caller's options."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import CommandError, SchedulerError
from hpc.processes import programs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_S = 15.0
"""Seconds that a Slurm program gets; without slurmctld squeue gives up by itself after 9 to 11."""
LINES = 3
"""Last lines of a program's error that go into our error."""

PROGRAMS = ("sbatch", "squeue", "scancel")
FOLDERS = (
    *("/etc/slurm", "/etc/slurm-llnl", "/usr/local/etc/slurm", "/opt/slurm", "/usr/local/slurm"),
    *("/cm/shared/apps/slurm", "/run/slurm", "/var/spool/slurm", "/var/spool/slurmd"),
)
"""Usual places of Slurm's settings, programs and files, packages' and sites' own."""

_SIGNS = re.compile(r"SLURM_(CONF|JWT|JOB_ID|ROOT|HOME|CLUSTERS|CLUSTER_NAME)(_|$)|SBATCH_")
_OPTIONS = re.compile(r"(SBATCH|SLURM|SRUN|SALLOC|SQUEUE|SACCT|SINFO|SCANCEL|SCONTROL|SUBMITIT)_")
_FINDS_SLURM = re.compile(r"SLURM_(CONF|JWT)(_|$)")
_PREFIX = re.compile(r"^(\w+: )?(error|fatal): |^slurm_\w+( error)?: ")


def options(env: Mapping[str, str]) -> list[str]:
    """Return the variables with options for Slurm and submitit, or with another job's identity.

    Variables with the address of Slurm (SLURM_CONF, SLURM_JWT) are not among them.
    """
    return [name for name in env if _OPTIONS.match(name) and not _FINDS_SLURM.match(name)]


def without_options(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of ``options``."""
    hidden = set(options(env))
    return {name: value for name, value in env.items() if name not in hidden}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of Slurm's programs: times in UTC, messages in English, no options.

    squeue cuts an array's list of waiting elements after 64 characters unless it is told not to.

    Args:
        env: the caller's.
    """
    ours = {"LC_ALL": "C", "TZ": "UTC", "SLURM_TIME_FORMAT": "standard", "SLURM_BITSTR_LEN": "0"}
    return without_options(env) | ours


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = TIMEOUT_S,
    stdin: str | None = None,
    exact: bool = False,
) -> programs.Result:
    """Run a Slurm program in the ``environment`` that we can read; exact is of process.run.

    Raises:
        CommandError: it is not installed or failed; the message is Slurm's own.
        CommandTimeout: it did not answer in time.
    """
    env = environment(os.environ)
    result = programs.run(argv, timeout_s=timeout_s, env=env, stdin=stdin, check=False, exact=exact)
    if result.returncode != 0:
        raise CommandError(
            f"{argv[0]}: {said(result.stderr) or f'exit status {result.returncode}'}",
            returncode=result.returncode,
            stderr=result.stderr,
        )
    return result


def said(stderr: str) -> str:
    """Return the error of a Slurm program on a line, without prefixes."""
    lines = (_PREFIX.sub("", line.strip()) for line in stderr.splitlines())
    told = "; ".join(list(dict.fromkeys(line.rstrip(".") for line in lines if line))[-LINES:])
    return told[:1].lower() + told[1:] if told[1:2].islower() else told


def unanswered(error: CommandError) -> SchedulerError:
    """Return the error for a silent Slurm, with a hint on the next step."""
    return SchedulerError(
        f"Slurm did not answer: {error}",
        hint="jobs go on without it; try again in a minute",
    )


def clusters(env: Mapping[str, str]) -> str:
    """Return the clusters for new jobs by an environment, read as by sbatch, or ""."""
    return env.get("SBATCH_CLUSTERS") or env.get("SLURM_CLUSTERS") or ""


def available() -> bool:
    """Return whether the machine has Slurm's programs, without running any."""
    return not missing_programs()


def missing_programs() -> list[str]:
    """Return the needed programs of Slurm without a place on PATH."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def sign_of_slurm(env: Mapping[str, str]) -> str | None:
    """Return a sign of a Slurm cluster on the machine, or None.

    A login node often has Slurm's programs behind a module only, and no folder of Slurm either.

    Args:
        env: the caller's.
    """
    names = [name for name in env if _SIGNS.match(name)]
    if names:
        return f"{names[0]} is set"
    modules = [Path(one, "slurm") for one in env.get("MODULEPATH", "").split(":") if one]
    for path in (*map(Path, FOLDERS), *modules):
        if path.exists():
            return f"{path} is there"
    return None
