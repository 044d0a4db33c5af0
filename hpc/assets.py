"""Files that come with the program: templates of scripts and definitions, and the GGUF server.

In an installed wheel they lie inside the package; in a checkout, in folders beside it.
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
    """Return where templates of one kind are looked for, the first wins.

    Args:
        kind: which templates.
        override: the site's or user's folder, flat; it need not hold all of them.

    Raises:
        ConfigError: there is no such folder.
    """
    if override is not None and not override.is_dir():
        raise ConfigError(f"there is no folder of templates {override}")
    return [*([override] if override else []), folder(kind)]


def script(name: str) -> Path:
    """Return the path of a script that is run as a program of its own."""
    return folder("scripts") / name
