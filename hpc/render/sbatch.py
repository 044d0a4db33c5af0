"""Batch scripts for Slurm."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.config import format_time
from hpc.errors import ConfigError
from hpc.render import sbatch_options
from hpc.render.template import CONTROL, fill

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hpc.model import Resources, ServiceSpec

PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SbatchJob:
    """The command of a batch script, beside the requested resources.

    Attributes:
        command: a simple shell command, quoted by the caller.
        folder: working folder of the command, which other users cannot write to.
        stdout: file name pattern of sbatch for the standard output.
        stderr: the same for the standard error.
        job_name: Slurm job name.
        signal_s: seconds before the walltime at which the command gets SIGUSR2.
        array: indices as sbatch reads them, such as ``0-9%4``; None is no array.
        requeue: whether Slurm may start the job again.
    """

    command: str
    folder: str
    stdout: str
    stderr: str
    job_name: str
    signal_s: int = 90
    array: str | None = None
    requeue: bool = True


def sbatch(spec: ServiceSpec, job: SbatchJob, templates: Path | None = None) -> str:
    """Return the batch script of a replica.

    Args:
        spec: the service.
        job: the job's command.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: a value cannot stand in a batch script, or a template is faulty.
    """
    return script(spec.engine, job, spec.resources, setup=spec.setup, templates=templates)


def script(
    template: str,
    job: SbatchJob,
    resources: Resources,
    *,
    setup: Sequence[str] = (),
    templates: Path | None = None,
) -> str:
    """Return the batch script of any job.

    Args:
        template: vllm, llamacpp, batch or gateway.
        job: the job's command.
        resources: resources to request from Slurm.
        setup: shell lines before the command.
        templates: a folder whose templates replace the bundled ones.

    Raises:
        ConfigError: a value cannot stand in a batch script, or a template is faulty.
    """
    sbatch_options.check(resources)
    values = {
        "job": job,
        "resources": resources,
        "amounts": amounts(resources),
        "setup": setup,
        "directive": directive,
        "format_time": format_time,
    }
    return fill("slurm_templates", f"{template}.sbatch.j2", values, templates)


def amounts(resources: Resources) -> dict[str, str | int]:
    """Return the options of sbatch for CPUs, GPUs and memory, in the site's way of asking."""
    wanted: dict[str, str | int] = {}
    if resources.cpus_per_gpu is None:
        wanted["cpus-per-task"] = resources.cpus
    else:
        wanted["cpus-per-gpu"] = resources.cpus_per_gpu
    gpus = ":".join(filter(None, (resources.gpu_type, str(resources.gpus))))
    asked = resources.gpu_option if resources.gpus else "none"
    # A second --gres would replace the first: other GRES of a site join the GPUs.
    gres = [f"gpu:{gpus}"] if asked == "gres" else []
    gres += filter(None, [resources.extra.get("gres")])
    if asked not in {"gres", "none"}:
        wanted[asked] = gpus
    if gres:
        wanted["gres"] = ",".join(gres)
    memory = {
        "mem": resources.mem_mb,
        "mem-per-cpu": resources.mem_per_cpu,
        "mem-per-gpu": resources.mem_per_gpu,
    }
    named = {option: f"{mib}M" if mib else mib for option, mib in memory.items() if mib is not None}
    return wanted | named


def directive(option: str, value: str | int | None = None) -> str:
    """Return a line of options for sbatch, quoted as sbatch reads quotes.

    sbatch splits these lines itself: quotes group, and unlike in a shell a backslash escapes
    inside single quotes too (Slurm, src/sbatch/opt.c, ``_get_argument``).

    Raises:
        ConfigError: the value holds a line break or another control character.
    """
    if value is None or value == "":
        return f"#SBATCH --{option}"
    text = str(value)
    if CONTROL.search(text):
        raise ConfigError(f"sbatch option {option} cannot hold a line break: {text!r}")
    if not PLAIN.fullmatch(text):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    return f"#SBATCH --{option}={text}"
