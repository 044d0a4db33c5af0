"""What pip is told on this machine, for builds that must be told the same."""

from __future__ import annotations

import configparser
import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_SETTINGS = frozenset({"PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_REQUIRE_VIRTUALENV"})


def read(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings: the machine's file, then the user's, then variables.

    Args:
        environ: the caller's variables.
    """
    home = Path(environ.get("HOME", "/"))
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    files = [Path("/etc/pip.conf"), home / ".pip/pip.conf", user]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    parser = configparser.ConfigParser(interpolation=None)
    for file in files:
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read_string(file.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {key: " ".join(text.split()) for key, text in parser.items(section)}
    said = {key: text for key, text in environ.items() if key.startswith("PIP_") and text}
    return found | {
        key.removeprefix("PIP_").lower().replace("_", "-"): text
        for key, text in said.items()
        if key not in NOT_SETTINGS
    }


def folders(settings: Mapping[str, str]) -> list[str]:
    """Return the folders of this machine that pip's settings name.

    Args:
        settings: what ``read`` returned; an index in a folder links to files beside it.
    """
    words = [word.removeprefix("file://") for text in settings.values() for word in text.split()]
    paths = [Path(word) for word in words if word.startswith("/")]
    paths = [path.parent if path.name == "simple" else path for path in paths]
    return sorted({str(path) for path in paths if path.is_dir()})


def write(folder: Path, settings: Mapping[str, str], seen_as: str, wheels: str) -> None:
    """Write a folder with pip.conf and what it refers to, for a build to see.

    Args:
        folder: where; it is made, for its owner only.
        settings: what ``read`` returned.
        seen_as: the folder's path in the image.
        wheels: a further folder of wheels in the image.
    """
    folder.mkdir(mode=0o700)
    told = dict(settings)
    certificate = Path(told.get("cert", ""))
    if certificate.is_file():
        shutil.copyfile(certificate, folder / "cert.pem")
        told["cert"] = f"{seen_as}/cert.pem"
    told["find-links"] = f"{told.get('find-links', '')} {wheels}".strip()
    lines = [f"{key} = {text}" for key, text in told.items()]
    path = folder / "pip.conf"
    path.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    path.chmod(0o600)
