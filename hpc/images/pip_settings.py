"""Pip's settings of the machine for builds and nodes, complete or left out with a note."""

from __future__ import annotations

import configparser
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.images import package_links, pip_files
from hpc.images.carried import Packing
from hpc.images.pip_passwords import Passwords
from hpc.images.pip_requirements import RequirementFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hpc.images.carried import Carried
    from hpc.images.pip_files import Sections

COMMANDS = ("install", "download", "wheel")
"""Commands of pip that builds run; sections of others do not count."""
ALIASES = {
    "default-timeout": "timeout",
    "no-dependencies": "no-deps",
    "pypi-url": "index-url",
}
PLACES = frozenset({"find-links", "index-url", "extra-index-url"})
REQUIREMENTS = frozenset({"constraint", "requirement", "build-constraint"})
CERTIFICATES = {"cert": "cert.pem", "client-cert": "client-cert.pem"}
FORMATS = frozenset({"no-binary", "only-binary"})
"""Options whose values in several sections add up; of any other the last one counts."""
PLAIN = FORMATS | {
    *("trusted-host", "proxy", "retries", "resume-retries", "timeout", "no-index"),
    *("pre", "prefer-binary", "ignore-requires-python", "no-deps", "require-hashes"),
    *("no-build-isolation", "check-build-dependencies", "config-settings", "global-option"),
    *("build-option", "upgrade", "upgrade-strategy", "force-reinstall", "ignore-installed"),
    "uploaded-prior-to",
}
"""Options that mean the same everywhere."""
WITHOUT_EFFECT = frozenset(
    {
        *("config-file", "isolated", "cache-dir", "no-cache-dir", "log", "log-file", "local-log"),
        *(
            "require-virtualenv",
            "require-venv",
            "break-system-packages",
            "disable-pip-version-check",
        ),
        *("root-user-action", "no-python-version-warning", "no-input", "exists-action", "no-clean"),
        *("quiet", "verbose", "no-color", "progress-bar", "debug", "compile", "no-compile"),
        *("no-warn-script-location", "no-warn-conflicts", "report", "format"),
    }
)
"""Options that change nothing in what a build installs, and are left out without a word."""
REASONS = {
    "keyring-provider": "it names a program of this machine",
    "use-feature": "the pip of a build is another release, and may not know it",
    "use-deprecated": "the pip of a build is another release, and may not know it",
}
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables in which pip looks for certificates where no setting names any."""
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def carried(
    environ: Mapping[str, str],
    *,
    seen_as: str,
    find_links: Iterable[str] = (),
    prefix: str = sys.prefix,
    etc: Path = Path("/etc"),
) -> Carried:
    """Return pip's settings for a build or node.

    The files are ``pip.conf``, what it names, and ``netrc`` with passwords, those of addresses too.
    Nothing is written, and the folders and files that settings name are only read.

    Args:
        environ: the caller's variables; relative paths start from the working folder, as for pip.
        seen_as: path under which the files will be seen.
        find_links: further folders of packages, as they will be seen.
        prefix: ``sys.prefix`` of the Python whose pip is meant.
        etc: the folder of the machine's own pip.conf.
    """
    found = pip_files.read(environ, prefix=prefix, etc=etc)
    packing = Packing(seen_as, home=Path(environ.get("HOME") or "/"))
    for path, reason in found.passed_over.items():
        packing.leave_out(f"pip's file {path}", reason)
    settings = merged(found.sections)
    bundle = next((environ[name] for name in BUNDLES if environ.get(name)), "")
    if bundle and not any("cert" in section for section in settings.values()):
        settings["global"]["cert"] = bundle
    carrier = _Carrier(packing, environ)
    told = {name: carrier.section(section) for name, section in settings.items()}
    further = " ".join(find_links)
    for name, section in told.items():
        if further and (name == "global" or "find-links" in section):
            section["find-links"] = f"{section.get('find-links', '')} {further}".strip()
    packing.put("pip.conf", text(told).encode())
    carrier.passwords.pack(environ, carrier.home)
    return packing.done()


def merged(sections: Sections) -> Sections:
    """Return settings by section, with the variables merged and each option under one name.

    Variables win over all sections, so an option of theirs is in ``global`` alone, but for those
    that add up, which come last in each section that has such. Empty values do not count, as in
    pip, once they have replaced what weaker files say.

    Args:
        sections: the configuration as ``pip_files.read`` gives it.
    """
    known = {name: _named(sections.get(name, {})) for name in ("global", *COMMANDS)}
    for key, value in _named(sections.get(pip_files.VARIABLES, {})).items():
        for name, section in known.items():
            before = section.pop(key, "")
            if key in FORMATS and (name == "global" or before or FORMATS & section.keys()):
                section[key] = f"{before},{value}" if before else value
            elif name == "global":
                section[key] = value
    return known


def text(sections: Sections) -> str:
    """Return a configuration file of pip.

    Args:
        sections: values without line breaks, by section and option.
    """
    parser = configparser.RawConfigParser()
    parser.read_dict({name: section for name, section in sections.items() if section})
    written = io.StringIO()
    parser.write(written)
    return written.getvalue()


def _named(section: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in section.items():
        if value:
            name = ALIASES.get(key, key)
            found.pop(name, None)
            found[name] = value
    return found


class _Carrier:
    """One pass over pip's settings; a file named twice is packed once."""

    def __init__(self, packing: Packing, environ: Mapping[str, str]) -> None:
        self.packing = packing
        self.environ = environ
        self.home = Path(environ.get("HOME") or "/")
        self.passwords = Passwords(packing)
        self.requirements = RequirementFiles(packing, environ, self.place)
        self._certificates: dict[tuple[str, Path], str | None] = {}

    def section(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings of a section, with paths of the build."""
        values = {key: self._value(key, value) for key, value in settings.items()}
        return {key: value for key, value in values.items() if value}

    def place(self, setting: str, word: str, *, index: bool = False) -> str | None:
        """Return a place of packages with its path in the build, or None if left out.

        Args:
            setting: its program and name.
            word: an address, or the path of a folder, page or package.
            index: it is an index, of one folder per package.
        """
        try:
            path = self._path(word)
            if path is None and not word.lower().startswith("file:"):
                return self.passwords.bare(setting, word)
            if path is None:
                self.packing.leave_out(setting, "it names a file of another machine")
                return None
            if not path.exists():
                self.packing.leave_out(f"{setting} {word}", "there is no such place")
                return None
            path = path.resolve() if path.is_dir() and not index else path
            shown = _folders(path, index=index)
        except (OSError, ValueError):
            self.packing.leave_out(f"{setting} {word}", "it cannot be read")
            return None
        whole = self.packing.show(setting, shown[0])
        for further in shown[1:] if whole else ():
            self.packing.show(f"{setting} {word}: its link to", further, named=False)
        return path.as_uri() if whole else None

    def _path(self, word: str) -> Path | None:
        """Return the local path of a word of pip's settings; None for a network address."""
        if not Path(word).exists() and ADDRESS.match(word):
            return package_links.local_path(word)
        tilde = self.home / word[2:] if word.startswith("~/") else None
        chosen = tilde if tilde is not None and tilde.exists() else Path(word)
        return Path(os.path.abspath(chosen))  # noqa: PTH100 - symbolic links stay as pip sees them

    def _value(self, key: str, value: str) -> str | None:
        kinds: dict[str, Callable[[str, str], str | None]] = {
            **dict.fromkeys(PLAIN, self._plain),
            **dict.fromkeys(PLACES, self._places),
            **dict.fromkeys(REQUIREMENTS, self._requirements),
            **dict.fromkeys(CERTIFICATES, self._certificate),
            **dict.fromkeys(WITHOUT_EFFECT, lambda _key, _value: None),
        }
        return kinds.get(key, self._other)(key, value)

    def _plain(self, key: str, value: str) -> str | None:
        if all(char.isprintable() or char.isspace() for char in value):
            return " ".join(value.split())
        self.packing.leave_out(_setting(key), "it holds a character that is no text")
        return None

    def _places(self, key: str, value: str) -> str:
        index = key != "find-links"
        seen = [self.place(_setting(key), word, index=index) for word in value.split()]
        return " ".join(word for word in seen if word)

    def _requirements(self, key: str, value: str) -> str:
        seen = [self.requirements.carry(_setting(key), word, Path()) for word in value.split()]
        return " ".join(word for word in seen if word)

    def _certificate(self, key: str, value: str) -> str | None:
        path = self.home / value[2:] if value.startswith("~/") else Path(value)
        if (key, path) not in self._certificates:
            taken = CERTIFICATES[key] in self.packing.files
            name = f"{len(self.packing.files)}-{CERTIFICATES[key]}" if taken else CERTIFICATES[key]
            self._certificates[key, path] = self.packing.copy(_setting(key), path, name)
        return self._certificates[key, path]

    def _other(self, key: str, _value: str) -> None:
        reason = REASONS.get(key, "it has its meaning on this machine only, or is unknown")
        self.packing.leave_out(_setting(key), reason)


def _folders(path: Path, *, index: bool) -> list[Path]:
    if path.is_file():
        return package_links.of_file(path)
    return package_links.of_index(path) if index else package_links.of_folder(path)


def _setting(key: str) -> str:
    return f"pip's setting {key}"
