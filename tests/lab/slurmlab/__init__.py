"""A real Slurm cluster on one machine: four nodes in namespaces, for tests."""

from .host import CommandError, LabError
from .lab import Lab
from .node import Bind, NodeProcess

__all__ = ["Bind", "CommandError", "Lab", "LabError", "NodeProcess"]
