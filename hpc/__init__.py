"""Serve language models from a Slurm cluster as an OpenAI-compatible endpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpc.version import __version__

if TYPE_CHECKING:
    from hpc.connection.async_connection import aconnect
    from hpc.connection.connection import connect

__all__ = ["__version__", "aconnect", "connect"]


_HOMES = {"connect": "hpc.connection.connection", "aconnect": "hpc.connection.async_connection"}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``import hpc`` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'hpc' has no attribute {name!r}")
