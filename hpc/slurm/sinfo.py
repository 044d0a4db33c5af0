"""Reports of sinfo and scontrol: partitions with limits and GPUs, and the site's settings."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from hpc.errors import CommandError
from hpc.slurm.command import run, unanswered

SINFO_FORMAT = "%P|%a|%l|%L|%D|%c|%m|%G|%T"
AWAY = ("down", "drain", "fail", "error", "unknown", "future", "inval")
"""Beginnings of the states of nodes that take no jobs."""
PARTS = ("shard", "mps", "vgpu")
"""GRES that are parts of GPUs."""
_PART_TYPE = re.compile(r"\d+g\.\d+gb|mig|vgpu|grid|-\d+[abcq]$", re.IGNORECASE)
"""GRES types of MIG slices (a100_1g.5gb) and of virtual GPUs (grid_t4-2q)."""


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
        gpus: whole GPUs of the node with most of them.
        gpu_types: GRES types of whole GPUs, most common first.
        gpu_parts: MIG slices, virtual GPUs and other parts of GPUs, as their GRES name them.
        away: nodes that take no jobs: down, drained or without an answer.
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
    gpu_parts: tuple[str, ...] = ()
    away: int = 0


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
    if len(parts) not in {8, 9}:  # a recorded line may lack the nodes' state
        return None
    name, avail, longest, default, nodes, cpus, memory, gres, state, *_ = (*parts, "")
    found = [_gres(item) for item in re.split(r",(?![^(]*\))", gres)]
    whole = [(kind, count) for kind, count, part in found if kind is not None and not part]
    away = state.lower().startswith(AWAY) or state.endswith("*")
    return Partition(
        name=name.removesuffix("*"),
        default=name.endswith("*"),
        up=avail == "up",
        max_minutes=_minutes(longest) or 0,
        default_minutes=_minutes(default),
        nodes=_number(nodes),
        cpus=_number(cpus),
        mem_mb=_number(memory),
        gpus=sum(count for _, count in whole),
        gpu_types=tuple(dict.fromkeys(kind for kind, _ in whole if kind)),
        gpu_parts=tuple(dict.fromkeys(kind for kind, _, part in found if kind and part)),
        away=_number(nodes) if away else 0,
    )


def _gres(item: str) -> tuple[str | None, int, bool]:
    """Return type, number, and whether each is a part of a GPU; the type None is no GPU."""
    name, *words = item.partition("(")[0].strip().split(":")
    count = int(words.pop()) if words and words[-1].isdigit() else 1
    kind = ":".join(words)
    if name in PARTS:
        return kind or name, count, True
    if name != "gpu":
        return None, 0, False
    return kind, count, _PART_TYPE.search(kind) is not None


def _merge(one: Partition, other: Partition) -> Partition:
    """Join two groups of nodes of a partition; nodes that take no jobs give no size."""
    nodes, away = one.nodes + other.nodes, one.away + other.away
    usable = [group for group in (one, other) if group.away < group.nodes] or [one, other]
    return replace(
        one,
        nodes=nodes,
        away=away,
        cpus=max(group.cpus for group in usable),
        mem_mb=max(group.mem_mb for group in usable),
        gpus=max(group.gpus for group in usable),
        gpu_types=tuple(dict.fromkeys(kind for group in usable for kind in group.gpu_types)),
        gpu_parts=tuple(dict.fromkeys(kind for group in usable for kind in group.gpu_parts)),
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
