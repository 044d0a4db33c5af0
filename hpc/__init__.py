"""Serve language models from a Slurm cluster as an OpenAI-compatible endpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc.connection import connect

__all__ = ["__version__", "connect"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``connect`` when it is first asked for, so that ``import hpc`` costs nothing."""
    if name == "connect":
        return import_module("hpc.connection").connect
    raise AttributeError(f"module 'hpc' has no attribute {name!r}")
