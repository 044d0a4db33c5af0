"""Files of requirements and constraints for builds, with all named files and folders."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from hpc.images import package_links
from hpc.images.carried import surely

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpc.images.carried import Packing

COMMENT = re.compile(r"(^|\s+)#.*$")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
REMOTE = re.compile(r"https?:", re.IGNORECASE)
FILE = re.compile(r"file:", re.IGNORECASE)
DIRECT = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+\s*(\[[^\]]*\])?\s*@\s*)?(?P<place>[^\s;]+)(?P<rest>.*)"
)
"""A requirement with a place: ``[NAME @ ]PLACE[; MARKER]``."""
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar")


class Place(Protocol):
    """The function for a place of packages; its result is None for a place left out."""

    def __call__(self, setting: str, word: str, *, index: bool = False) -> str | None:
        """Return where the place is seen."""


class RequirementFiles:
    """Copies of requirement files, rewritten for the paths of the build."""

    def __init__(self, packing: Packing, environ: Mapping[str, str], place: Place) -> None:
        """Begin with no file.

        Args:
            packing: the files and folders so far.
            environ: variables that files may name as ``${NAME}``.
            place: shows places of packages.
        """
        self._packing = packing
        self._environ = environ
        self._place = place
        self._seen: dict[Path, str] = {}
        self._options = _parser()

    def carry(self, setting: str, word: str, folder: Path) -> str | None:
        """Copy a file and all included files; return its path in the build, or None.

        Args:
            setting: its program and name.
            word: an address or a path.
            folder: the folder that a relative path starts from.
        """
        if REMOTE.match(word):
            return self._place(setting, word)
        path = package_links.local_path(word) if FILE.match(word) else folder / word
        if path is None:
            self._packing.leave_out(setting, "it names a file of another machine")
            return None
        path = Path(os.path.abspath(path))  # noqa: PTH100 - what it names is beside the link
        if path not in self._seen:
            self._copy(setting, path)
        return self._seen.get(path)

    def _copy(self, setting: str, path: Path) -> None:
        content = self._packing.contents(setting, path)
        if content is None:
            return
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            self._packing.leave_out(f"{setting} {path}", "it is no text in UTF-8")
            return
        name = f"requirements-{len(self._seen)}.txt"
        # Noted before its lines are looked at, since files may include each other.
        self._seen[path] = f"{self._packing.seen_as}/{name}"
        about = f"{setting} {path}"
        written = [self._line(about, line, path.parent) for line in self._meant(lines)]
        self._packing.put(name, "".join(f"{line}\n" for line in written if line).encode())

    def _meant(self, lines: list[str]) -> Iterator[str]:
        """Yield the logical lines of a file: joined, without comments, variables filled in."""
        joined = ""
        for line in [*lines, ""]:
            comment = COMMENT.match(line)
            if line.endswith("\\") and not comment:
                joined += line.strip("\\")
                continue
            whole = joined + (f" {line}" if comment else line)
            joined = ""
            bare = COMMENT.sub("", whole).strip()
            if bare:
                yield VARIABLE.sub(lambda m: self._environ.get(m[1]) or m[0], bare)

    def _line(self, about: str, line: str, folder: Path) -> str | None:
        words = line.split(" ")
        first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
        requirement, options = " ".join(words[:first]), " ".join(words[first:])
        if requirement.strip():
            kept = self._requirement(about, requirement)
            return f"{kept} {options}".strip() if kept else None
        try:
            given, rest = self._options.parse_known_args(shlex.split(options))
        except ValueError:
            return line  # pip says what is wrong with it
        return shlex.join([*self._rewritten(about, given, folder), *rest])

    def _rewritten(self, about: str, given: argparse.Namespace, folder: Path) -> Iterator[str]:
        for word in given.editable:
            if "://" in word and not FILE.match(word):
                yield from ["--editable", word]
            else:
                self._packing.leave_out(f"{about}: -e {word}", "it is a folder of sources")
        for option in ("requirement", "constraint"):
            for word in getattr(given, option):
                path = self.carry(about, word, folder)
                yield from [f"--{option}", path] if path else []
        for option in ("index_url", "extra_index_url", "find_links"):
            for word in getattr(given, option):
                beside = folder / word
                start = str(beside) if option == "find_links" and surely(beside.exists) else word
                place = self._place(about, start, index=option != "find_links")
                yield from [f"--{option.replace('_', '-')}", place] if place else []

    def _requirement(self, about: str, text: str) -> str | None:
        match = DIRECT.fullmatch(text.strip())
        if match and REMOTE.match(match["place"]):
            shown = self._place(about, match["place"])
            return f"{match['name'] or ''}{shown}{match['rest']}"
        if match is None or not _is_local(match["place"]):
            return text
        place, mark, hashed = match["place"].partition("#")
        path = package_links.local_path(place) if FILE.match(place) else Path(place)
        if path is not None and surely(path.is_dir):
            self._packing.leave_out(f"{about}: {place}", "it is a folder of sources")
            return None
        shown = self._place(about, place)
        return f"{match['name'] or ''}{shown}{mark}{hashed}{match['rest']}" if shown else None


def _is_local(place: str) -> bool:
    if FILE.match(place):
        return True
    if "://" in place:
        return False
    return (
        place.startswith((".", "/"))
        or ("/" in place and surely(Path(place).is_dir))
        or (place.lower().endswith(ARCHIVES) and surely(Path(place).is_file))
    )


class _Parser(argparse.ArgumentParser):
    """A parser with an exception in place of an exit."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    """Return a parser of the options with files, folders or addresses."""
    parser = _Parser(add_help=False)
    for names in (
        "-r --requirement",
        "-c --constraint",
        "-e --editable",
        "-f --find-links",
        "-i --index-url --pypi-url",
        "--extra-index-url",
    ):
        parser.add_argument(*names.split(), action="append", default=[])
    return parser
