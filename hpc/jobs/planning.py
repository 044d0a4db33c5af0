"""The checks of a submission before any job: engine, files, sbatch's options, the shell."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from hpc import apptainer
from hpc.config import sbatch_variables
from hpc.engines import plan
from hpc.engines.located import located
from hpc.render import sbatch_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpc.engines.plan import LaunchPlan
    from hpc.jobs.submission import Cluster
    from hpc.model import ServiceSpec


def planned(spec: ServiceSpec, *, cluster: Cluster, files: bool = True) -> LaunchPlan:
    """Return the plan of an engine's start, with notes on the submitting shell.

    Args:
        spec: the service.
        cluster: "slurm" or "local".
        files: whether image and model must be there.

    Raises:
        ConfigError: the engine or sbatch would refuse a setting.
        EngineError: the image or the model is missing.
    """
    if cluster == "slurm":
        sbatch_options.check(spec.resources)
    made = plan.plan(plan.rehearsal(spec), os.environ)
    told: tuple[str, ...] = ()
    if files:
        plan.check_files(spec)
        spec, told = located(spec, os.environ)
        made = plan.plan(spec, os.environ)
    notes = (*made.notes, *told, *_of_shell(spec, cluster, os.environ))
    return replace(made, spec=spec, notes=notes)


def _of_shell(spec: ServiceSpec, cluster: Cluster, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield sentences on variables of the shell, whose effect nobody sees otherwise."""
    if cluster == "slurm":
        yield from sbatch_variables.unused(spec.resources, environ)
    if spec.container == "apptainer":
        yield from apptainer.shell_notes(environ)
