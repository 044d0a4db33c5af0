"""Slurm's programs: the only package that runs squeue, sacct, scancel, sinfo and scrontab."""

from hpc.slurm.command import available, options, without_options
from hpc.slurm.queue import cancel, drain, has_accounting, just_submitted, statuses
from hpc.slurm.sinfo import Partition, partitions, site_settings
from hpc.slurm.states import exit_reason

__all__ = [
    "Partition",
    "available",
    "cancel",
    "drain",
    "exit_reason",
    "has_accounting",
    "just_submitted",
    "options",
    "partitions",
    "site_settings",
    "statuses",
    "without_options",
]
