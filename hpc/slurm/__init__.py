"""Slurm's programs: sbatch, squeue, sacct, sacctmgr, scancel, sinfo and scrontab run only here."""

from hpc.slurm.command import (
    available,
    missing_programs,
    options,
    sign_of_slurm,
    without_options,
)
from hpc.slurm.permissions import Association, Permissions, permissions
from hpc.slurm.queue import cancel, drain, has_accounting, just_submitted, statuses
from hpc.slurm.sbatch import Submitted, submit
from hpc.slurm.sinfo import Partition, partitions, site_settings
from hpc.slurm.states import exit_reason

__all__ = [
    "Association",
    "Partition",
    "Permissions",
    "Submitted",
    "available",
    "cancel",
    "drain",
    "exit_reason",
    "has_accounting",
    "just_submitted",
    "missing_programs",
    "options",
    "partitions",
    "permissions",
    "sign_of_slurm",
    "site_settings",
    "statuses",
    "submit",
    "without_options",
]
