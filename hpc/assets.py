"""Files shipped with the program: templates of scripts and definitions, and the GGUF server.

In an installed wheel the files lie inside the package; in a checkout, in folders beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hpc.errors import ConfigError

Kind = Literal["slurm_templates", "apptainer", "scripts"]


def folder(kind: Kind) -> Path:
    """Return the folder of one kind of file."""
    package = Path(__file__).resolve().parent
    shipped = package / "_assets" / kind
    return shipped if shipped.is_dir() else package.parent / kind


def folders(kind: Kind, override: Path | None = None) -> list[Path]:
    """Return the folders to search for templates of one kind; the first wins.

    Args:
        kind: kind of templates.
        override: the site's or user's folder, flat; may hold only some templates.

    Raises:
        ConfigError: the override does not exist.
    """
    if override is not None and not override.is_dir():
        raise ConfigError(f"there is no folder of templates {override}")
    return [*([override] if override else []), folder(kind)]


def script(name: str) -> Path:
    """Return the path of a script to run as a program."""
    return folder("scripts") / name
