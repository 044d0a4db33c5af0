"""Slurm's programs: the only package that runs squeue, sacct, scancel, sinfo and scrontab."""

from hpc.slurm.command import available, options, without_options
from hpc.slurm.queue import cancel, drain, has_accounting, just_submitted, statuses
from hpc.slurm.sinfo import Partition, partitions, site_settings
from hpc.slurm.states import last_words

__all__ = [
    "Partition",
    "available",
    "cancel",
    "drain",
    "has_accounting",
    "just_submitted",
    "last_words",
    "options",
    "partitions",
    "site_settings",
    "statuses",
    "without_options",
]
