"""Apt's settings of the machine for builds: mirror, proxies, checks, passwords."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpc.errors import CommandError, ConfigError
from hpc.images.carried import Packing, surely
from hpc.processes import programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc.images.carried import Carried

RELEASES = frozenset(
    {"stable", "testing", "unstable", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"}
)
ETC = Path("/etc/apt")
DEBIANS = re.compile(r"(/usr/share/keyrings/debian-archive-[\w.-]+[\s,]*)+")
"""Keys that debootstrap trusts anyway."""
ONE_LINE = re.compile(r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)", re.MULTILINE)
SIGNED_BY = re.compile(r"signed-by=(\S+)", re.IGNORECASE)
REACH = re.compile(r"Acquire::(?:Check-|Retries|https?::|ForceIPv)")
OPTION = re.compile(r'([\w:.*-]+) "(.*)";')
"""A line of ``apt-config dump``, which quotes nothing."""
NETRC = re.compile(r'^Dir::Etc::netrc "(.+)";$', re.MULTILINE)
FILES = frozenset({"cainfo", "sslcert", "sslkey", "issuercert", "crlfile"})
PROGRAMS = frozenset({"proxy-auto-detect", "proxyautodetect"})
SANDBOX = 'APT::Sandbox::User "root";\n'
"""Without it apt reads its files as a user of its own, who may not look into the build's folder."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of packages.

    Attributes:
        uri: its address.
        suites: its releases, separated by spaces.
        signed_by: the keys that are trusted for it: files, a key itself, or nothing.
    """

    uri: str
    suites: str
    signed_by: str = ""


def mirror(root: Path = ETC) -> str:
    """Return the first mirror of a Debian release in apt's configuration.

    Args:
        root: apt's folder.

    Raises:
        ConfigError: there is none, as on a machine that is no Debian.
    """
    for source in sources(root):
        if _is_debian(source):
            return source.uri.rstrip("/")
    raise ConfigError(
        "this machine's apt knows no Debian mirror",
        hint="set debian_mirror in the site file, or give --mirror",
    )


def sources(root: Path = ETC) -> list[Source]:
    """Return the sources of packages that apt uses, in either of its formats.

    Args:
        root: apt's folder.
    """
    parts = root / "sources.list.d"
    found: list[Source] = []
    for file in [root / "sources.list", *sorted((*parts.glob("*.list"), *parts.glob("*.sources")))]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = file.read_text(encoding="utf-8")
            found += _stanzas(text) if file.suffix == ".sources" else _lines(text)
    return found


def carried(
    seen_as: str, *, mirror: str | None, root: Path = ETC, dump: str | None = None
) -> Carried:
    """Return apt's settings for a build or node: ``apt.conf`` with the files named there.

    Args:
        seen_as: path under which the files will be seen.
        mirror: the Debian mirror that is used; None where the image has sources of its own.
        root: apt's folder.
        dump: output of ``apt-config dump``; None asks this machine's, which may have no apt.
    """
    packing = Packing(seen_as)
    said = options() if dump is None else dump
    lines = [_option(packing, line) for line in said.splitlines()]
    passwords = _passwords(packing, root, said)
    if passwords:
        packing.put("apt-auth.conf", passwords)
        lines.append(f'Dir::Etc::netrc "{seen_as}/apt-auth.conf";\n')
    lines += [SANDBOX] if packing.files else []
    packing.put("apt.conf", "".join(line for line in lines if line).encode())
    _leave_out_sources(packing, sources(root), mirror)
    _leave_out_pins(packing, root)
    return packing.done()


def options() -> str:
    """Return the output of ``apt-config dump``, or an empty text without apt."""
    try:
        return programs.run(("apt-config", "dump")).stdout
    except CommandError:
        return ""


def _option(packing: Packing, line: str) -> str | None:
    """Return a line of the configuration for the build, or None if left out."""
    match = OPTION.fullmatch(line)
    if not REACH.match(line) or match is None or not match[2]:
        return None
    key, value = match.groups()
    last = key.lower().rpartition("::")[2]
    setting = f"apt's setting {key}"
    if '"' in value:
        packing.leave_out(setting, "it holds a quotation mark")
        return None
    if last in PROGRAMS:
        packing.leave_out(setting, "it names a program of this machine")
        return None
    if last == "capath":
        packing.leave_out(setting, "it names a folder of this machine; name a file with CAInfo")
        return None
    if last in FILES:
        seen = packing.copy(setting, Path(value), f"apt-{len(packing.files)}.pem")
        return f'{key} "{seen}";\n' if seen else None
    return f"{line}\n"


def _passwords(packing: Packing, root: Path, dump: str) -> bytes:
    """Return the files of passwords in apt's order, joined."""
    named = NETRC.search(dump)
    first = root / (named[1] if named else "auth.conf")
    files = [first, *sorted((root / "auth.conf.d").glob("*"))]
    there = [file for file in files if surely(file.is_file) and file.suffix in {".conf", ""}]
    found = [packing.contents("apt's file of passwords", file) for file in there]
    return b"".join(content.rstrip() + b"\n" for content in found if content)


def _leave_out_sources(packing: Packing, known: list[Source], mirror: str | None) -> None:
    """Note the sources and keys left out of an image: all but those of the mirror."""
    used = mirror.rstrip("/") if mirror else None
    others = [source.uri for source in known if source.uri.rstrip("/") != used]
    places = ", ".join(dict.fromkeys(_place(uri) for uri in others))
    if places:
        reason = "the image has the mirror alone" if used else "the image has its own"
        packing.leave_out(f"apt's list of sources with their keys ({places})", reason)
    for source in known:
        key = source.signed_by
        if source.uri.rstrip("/") == used and key and not DEBIANS.fullmatch(key):
            name = "in its source" if "\n" in key else key
            packing.leave_out(f"apt's key {name} of the mirror", "debootstrap trusts Debian's only")


def _leave_out_pins(packing: Packing, root: Path) -> None:
    """Note apt's choices of versions, which name packages and releases of the machine."""
    files = [root / "preferences", *sorted((root / "preferences.d").glob("*"))]
    there = [file for file in files if surely(file.is_file) and file.suffix in {".pref", ""}]
    if there:
        names = ", ".join(str(file.relative_to(root)) for file in there)
        packing.leave_out(f"apt's choice of versions ({names})", "it is made for this machine")


def _is_debian(source: Source) -> bool:
    return bool(RELEASES.intersection(source.suites.split()))


def _place(uri: str) -> str:
    """Return the host and folder of a source, without any password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "an address of no known form"
    return f"{parts.hostname or parts.scheme}{parts.path}".rstrip("/")


def _lines(text: str) -> Iterator[Source]:
    for match in ONE_LINE.finditer(text):
        key = SIGNED_BY.search(match[1] or "")
        yield Source(match[2], match[3], key[1] if key else "")


def _stanzas(text: str) -> Iterator[Source]:
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", bare):
        fields = HeaderParser().parsestr(stanza.lstrip())
        used = fields.get("Enabled", "yes").strip().lower() not in {"no", "false", "0", "off"}
        if used and "deb" in fields.get("Types", "").split():
            for uri in fields.get("URIs", "").split():
                suites = " ".join(fields.get("Suites", "").split())
                yield Source(uri, suites, fields.get("Signed-By", "").strip())
