"""Reports of sinfo and scontrol: partitions with limits and GPUs, and the site's settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from hpc.errors import CommandError
from hpc.slurm.command import run, unanswered

SINFO_FORMAT = "%P|%a|%l|%L|%D|%c|%m|%G"
_GPU = re.compile(r"gpu(?::(?P<type>[^:(,]+))?:(?P<count>\d+)")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition visible to the user.

    Attributes:
        name: name of the partition.
        default: whether jobs without a partition go here.
        up: whether the partition accepts and starts jobs.
        max_minutes: longest walltime in minutes; 0 is UNLIMITED.
        default_minutes: walltime of a job that requests none; None is ``max_minutes``.
        nodes: number of nodes.
        cpus: CPUs of the largest node.
        mem_mb: MiB of memory of the largest node.
        gpus: GPUs of the node with most of them.
        gpu_types: GRES types, most common first.
    """

    name: str
    default: bool = False
    up: bool = True
    max_minutes: int = 0
    default_minutes: int | None = None
    nodes: int = 0
    cpus: int = 0
    mem_mb: int = 0
    gpus: int = 0
    gpu_types: tuple[str, ...] = ()


def partitions() -> list[Partition]:
    """Return the partitions in sinfo's order.

    Raises:
        SchedulerError: Slurm did not answer.
    """
    try:
        text = run(["sinfo", "--local", "--noheader", "--exact", f"--format={SINFO_FORMAT}"]).stdout
    except CommandError as error:
        raise unanswered(error) from error
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        row = _parse(line)
        if row is not None:
            known = found.get(row.name)
            found[row.name] = row if known is None else _merge(known, row)
    return list(found.values())


def site_settings() -> dict[str, str]:
    """Return slurm.conf from ``scontrol show config``; empty if scontrol fails."""
    try:
        text = run(["scontrol", "show", "config"]).stdout
    except CommandError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, mark, value in pairs if mark}


def this_cluster() -> str:
    """Return the name of this machine's cluster; "" if unknown.

    Nodes may lack scontrol, and Slurm tells their jobs the name.
    """
    return site_settings().get("ClusterName") or os.environ.get("SLURM_CLUSTER_NAME", "")


def _parse(line: str) -> Partition | None:
    parts = line.strip().split("|")
    if len(parts) != SINFO_FORMAT.count("|") + 1:
        return None
    name, avail, longest, default, nodes, cpus, memory, gres = parts
    gpus = _GPU.findall(gres)
    return Partition(
        name=name.removesuffix("*"),
        default=name.endswith("*"),
        up=avail == "up",
        max_minutes=_minutes(longest) or 0,
        default_minutes=_minutes(default),
        nodes=_number(nodes),
        cpus=_number(cpus),
        mem_mb=_number(memory),
        gpus=sum(int(count) for _, count in gpus),
        gpu_types=tuple(dict.fromkeys(kind for kind, _ in gpus if kind)),
    )


def _merge(one: Partition, other: Partition) -> Partition:
    """Join two groups of nodes of a partition."""
    return replace(
        one,
        nodes=one.nodes + other.nodes,
        cpus=max(one.cpus, other.cpus),
        mem_mb=max(one.mem_mb, other.mem_mb),
        gpus=max(one.gpus, other.gpus),
        gpu_types=tuple(dict.fromkeys((*one.gpu_types, *other.gpu_types))),
    )


def _minutes(text: str) -> int | None:
    from hpc.config import parse_time  # noqa: PLC0415 - its schema costs more than a squeue

    try:
        return parse_time(text)
    except ValueError:
        return None


def _number(text: str) -> int:
    match = re.match(r"\d+", text.strip())
    return int(match[0]) if match else 0
