"""The sbatch options closed to ``resources.extra`` of a site or model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.model import Resources

OPTION = re.compile(r"[a-z][a-z0-9-]+")
LOGS = "the job's logs, its name, its requeue and its signal before the walltime depend on it"
ONE_TASK = "a replica is one task on one node; more replicas are set by replicas"
ANSWER = "sbatch would not submit at once and tell the job's id"
OURS: Mapping[str, str] = {
    **dict.fromkeys(
        ("array", "error", "job-name", "open-mode", "output", "requeue", "no-requeue", "signal"),
        LOGS,
    ),
    **dict.fromkeys(
        ("nodes", "ntasks", "ntasks-per-node", "ntasks-per-core", "ntasks-per-socket"), ONE_TASK
    ),
    **dict.fromkeys(("ntasks-per-gpu", "nodefile"), ONE_TASK),
    **dict.fromkeys(
        ("wrap", "help", "usage", "version", "parsable", "quiet", "test-only", "wait"), ANSWER
    ),
}
"""Options with the reason why nobody but hpc-serve sets each."""
KEYS: Mapping[str, str] = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus",
    "gres": "gpus",
    "mem": "mem",
    "partition": "partition",
    "qos": "qos",
    "time": "time",
}
"""Options that are set by a key of ``resources``; sbatch would take the last of two."""
FIELDS = {"mem": "mem_mb", "time": "time_min"}
SHORT: Mapping[str, str] = {
    "A": "account", "C": "constraint", "N": "nodes", "n": "ntasks", "c": "cpus-per-task",
    "p": "partition", "q": "qos", "t": "time", "J": "job-name", "o": "output", "e": "error",
    "a": "array", "H": "hold", "W": "wait", "Q": "quiet", "w": "nodelist", "x": "exclude",
    "d": "dependency", "D": "chdir", "L": "licenses", "M": "clusters", "G": "gpus",
    "s": "oversubscribe",
}  # fmt: skip
"""sbatch's short options."""


def check(resources: Resources) -> None:
    """Refuse options of ``resources.extra`` set by hpc-serve, or unknown to sbatch.

    Args:
        resources: the resources of a job; an option may stand there that no key has set.

    Raises:
        ConfigError: names the option, the reason and the key to use.
    """
    for said in resources.extra:
        option = SHORT.get(said, said)
        if not OPTION.fullmatch(option):
            raise ConfigError(
                f"resources.extra: {said!r} is no sbatch option",
                hint="allowed: long options without dashes, such as reservation",
            )
        owner = _owner(option)
        if owner in OURS:
            raise ConfigError(f"resources.extra: {said} is set by hpc-serve: {OURS[owner]}")
        # The word gres itself: its items that are no GPUs stand beside ours in one option.
        if said != "gres" and owner in KEYS and _rendered(owner, resources):
            raise ConfigError(
                f"resources.extra: {said} stands beside resources.{KEYS[owner]}, which sets it"
            )
        if said in SHORT:
            raise ConfigError(f"resources.extra: write {option}, the long option, for {said}")


def _rendered(option: str, resources: Resources) -> bool:
    value = getattr(resources, FIELDS.get(KEYS[option], KEYS[option]))
    return bool(value) if option == "gres" else value is not None


def _owner(option: str) -> str:
    """Return sbatch's option for a name: the beginning of an option is enough."""
    if option in OURS or option in KEYS:
        return option
    return next((one for one in (*OURS, *KEYS) if one.startswith(option)), option)
