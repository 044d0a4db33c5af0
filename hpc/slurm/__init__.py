"""Slurm's programs: no other package runs squeue, sacct, sacctmgr, scancel, sinfo, scrontab."""

from hpc.slurm.command import available, options, without_options
from hpc.slurm.permissions import Association, Permissions, permissions
from hpc.slurm.queue import cancel, drain, has_accounting, just_submitted, statuses
from hpc.slurm.sinfo import Partition, partitions, site_settings
from hpc.slurm.states import exit_reason

__all__ = [
    "Association",
    "Partition",
    "Permissions",
    "available",
    "cancel",
    "drain",
    "exit_reason",
    "has_accounting",
    "just_submitted",
    "options",
    "partitions",
    "permissions",
    "site_settings",
    "statuses",
    "without_options",
]
