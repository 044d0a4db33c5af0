"""The variables that sbatch itself reads as options: some are settings, the others are told.

They never reach sbatch, where they would win over the batch script: SBATCH_OUTPUT would move the
logs, SBATCH_SIGNAL the warning before the walltime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpc.config.units import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.model import Resources

PREFIX = "SBATCH_"
HONOURED = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_TIMELIMIT": "time",
}
"""Keys of ``resources`` by variable; any file, variable or flag of hpc-serve's own wins."""
EXTRA = {
    "SBATCH_RESERVATION": "reservation",
    "SLURM_CLUSTERS": "clusters",
    "SBATCH_CLUSTERS": "clusters",
}
"""Keys of ``resources.extra`` by variable; of two variables the last wins, as for sbatch."""


def resources(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the resources in sbatch's variables, by key of ``resources``."""
    said: dict[str, Any] = {key: environ.get(name) or None for name, key in HONOURED.items()}
    extra = {key: environ[name] for name, key in EXTRA.items() if environ.get(name)}
    return {**said, "extra": extra} if extra else said


def unused(used: Resources, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return sentences on sbatch's variables without effect on a job.

    Args:
        used: the job's resources.
        environ: variables of the submission.
    """
    effective = _effective(used)
    names = [name for name in sorted(environ) if name.startswith(PREFIX) and environ[name]]
    other = [name for name in names if effective.get(name) != _plain(name, environ[name])]
    told = [
        f"{name}={environ[name]} has no effect, as the service's own is {effective[name]}"
        for name in other
        if effective.get(name)
    ]
    rest = [name for name in other if not effective.get(name)]
    if rest:
        told.append(f"{', '.join(rest)} of this shell: no effect; write options under resources")
    return tuple(told)


def _effective(used: Resources) -> dict[str, str | None]:
    return {
        "SBATCH_ACCOUNT": used.account,
        "SBATCH_CONSTRAINT": used.constraint,
        "SBATCH_PARTITION": used.partition,
        "SBATCH_QOS": used.qos,
        "SBATCH_TIMELIMIT": None if used.time_min is None else format_time(used.time_min),
        **{name: used.extra.get(key) for name, key in EXTRA.items()},
    }


def _plain(name: str, value: str) -> str:
    if HONOURED.get(name) != "time":
        return value
    try:
        return format_time(parse_time(value))
    except ValueError:
        return value
