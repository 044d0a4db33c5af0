"""Pip's configuration on the local machine, read in pip's own order: files, then variables."""

from __future__ import annotations

import configparser
import locale
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.images.carried import content_of, surely

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLES = ":env:"
"""Pip's name for the section of what ``PIP_*`` variables say."""
NOT_OPTIONS = frozenset({"version", "help"})
Sections = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration of pip.

    Attributes:
        sections: values by section and option; ``VARIABLES`` is the last.
        passed_over: files that are there and cannot be read, with the reason.
    """

    sections: Sections
    passed_over: Mapping[Path, str]


def read(
    environ: Mapping[str, str], *, prefix: str = sys.prefix, etc: Path = Path("/etc")
) -> Found:
    """Return the configuration of pip, as ``pip config list`` does.

    Args:
        environ: the caller's variables.
        prefix: ``sys.prefix`` of the Python whose pip is meant.
        etc: the folder of the machine's own file.
    """
    sections: Sections = {}
    passed_over: dict[Path, str] = {}
    for path in files(environ, prefix=prefix, etc=etc):
        parser = configparser.RawConfigParser()
        try:
            text = content_of(path).decode(locale.getpreferredencoding(do_setlocale=False))
            parser.read_string(text)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            passed_over[path] = "it cannot be read"
            continue
        except (configparser.Error, UnicodeDecodeError):
            passed_over[path] = "it is no file of sections and settings"
            continue
        for name in parser.sections():
            section = sections.setdefault(name, {})
            section |= {_option(key): text for key, text in parser.items(name)}
    sections[VARIABLES] = _variables(environ)
    return Found(sections, passed_over)


def files(environ: Mapping[str, str], *, prefix: str, etc: Path) -> list[Path]:
    """Return the paths of pip's files, also of missing files, the strongest last.

    Args:
        environ: the caller's variables.
        prefix: ``sys.prefix`` of the Python whose pip is meant.
        etc: the folder of the machine's own file.
    """
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME") or "/")
    folders = environ.get("XDG_CONFIG_DIRS", "").strip() or "/etc/xdg"
    own = environ.get("XDG_CONFIG_HOME", "").strip() or home / ".config"
    found = [_expanded(folder, home) / "pip/pip.conf" for folder in folders.split(os.pathsep)]
    found.append(etc / "pip.conf")
    # A file of one's own choice stands in place of the user's files, if it exists.
    if not (named and surely(Path(named).exists)):
        found += [home / ".pip/pip.conf", Path(own) / "pip/pip.conf"]
    return [*found, Path(prefix) / "pip.conf", *([Path(named)] if named else [])]


def _expanded(folder: str, home: Path) -> Path:
    return home / folder[2:] if folder.startswith("~/") else Path(folder)


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    named = {key[4:].lower(): text for key, text in environ.items() if key.startswith("PIP_")}
    return {_option(key): text for key, text in named.items() if key not in NOT_OPTIONS}


def _option(key: str) -> str:
    name = key.lower().replace("_", "-")
    return name.removeprefix("--")
