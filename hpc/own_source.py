"""The origin of the copy of hpc-serve, for hints to install the same elsewhere.

The name hpc-serve on a public index may be anybody's: a hint to install by name would run a
stranger's code. pip notes a copy's source beside the package, except for an index.

Source: https://packaging.python.org/en/latest/specifications/direct-url/
"""

from __future__ import annotations

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

NAME = "hpc-serve"
BIN_PATH = "bin-path"
"""File in the user's configuration with the folder of the hpc-serve program, for ``connect``."""
CHECKOUT = "CHECKOUT"
"""Stand-in for the path of a checkout, where the source is not known."""


def programs() -> Path:
    """Return the folder of the hpc-serve program of the copy."""
    called = Path(sys.argv[0])
    # Not resolved: the program of an environment stands beside its link to Python.
    return Path(called if called.name == NAME else sys.executable).absolute().parent


def source() -> str:
    """Return the source of the copy: an address for pip, or the path of a wheel or a checkout.

    ``CHECKOUT`` stands for an unknown source.
    """
    try:
        text = metadata.distribution(NAME).read_text("direct_url.json")
        said = json.loads(text or "{}")
        return _read(said) if isinstance(said, dict) else CHECKOUT
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return CHECKOUT


def pip_command(*extras: str) -> str:
    """Return the command that installs the copy with extras, from the same origin."""
    return f"python3 -m pip install {shlex.quote(_requirement(source(), extras))}"


def _requirement(place: str, extras: tuple[str, ...]) -> str:
    wanted = f"[{','.join(extras)}]" if extras else ""
    # An address stands behind the name, by which pip looks nothing up; a path takes extras itself.
    return f"{NAME}{wanted} @ {place}" if "://" in place else f"{place}{wanted}"


def _read(said: dict[str, Any]) -> str:
    parts = urlsplit(str(said.get("url", "")))
    if parts.scheme == "file":
        return unquote(parts.path)
    if not parts.netloc:
        return CHECKOUT
    # pip leaves passwords out; another installer may not.
    host = parts.netloc.rpartition("@")[2]
    user = "git@" if parts.netloc.startswith("git@") else ""
    plain = urlunsplit((parts.scheme, user + host, parts.path, "", ""))
    version = said.get("vcs_info")
    if not isinstance(version, dict):
        return plain
    return f"{version.get('vcs')}+{plain}@{version.get('commit_id')}"
