"""What apt is told on this machine, for builds of Debian images: mirror, proxies, checks."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import process
from hpc.errors import CommandError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASES = frozenset(
    {"stable", "testing", "unstable", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"}
)
ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+.*$", re.MULTILINE)
REACH = re.compile(r"Acquire::(?:Check-|Retries|https?::|ForceIPv)")
FIELD = re.compile(r"^(URIs|Suites):\s*(.+)$", re.MULTILINE)


def mirror(root: Path = Path("/etc/apt")) -> str:
    """Return the first mirror of a Debian release in apt's configuration.

    Args:
        root: apt's folder.

    Raises:
        ConfigError: there is none, as on a machine that is no Debian.
    """
    files = [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]
    for file in files:
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = file.read_text(encoding="utf-8")
        for uri, suites in _sources(text):
            if RELEASES.intersection(suites.split()):
                return uri.rstrip("/")
    raise ConfigError(
        "this machine's apt knows no Debian mirror",
        hint="set debian_mirror in the site file, or give --mirror",
    )


def options() -> str:
    """Return how this machine's apt reaches its mirrors, as a configuration file; may be empty."""
    try:
        dumped = process.run(("apt-config", "dump")).stdout
    except CommandError:
        return ""
    return "".join(line for line in dumped.splitlines(keepends=True) if REACH.match(line))


def _sources(text: str) -> Iterator[tuple[str, str]]:
    """Yield address and suites of each source, in either of apt's formats."""
    for match in ONE_LINE.finditer(text):
        yield match[1], match[2]
    for stanza in re.split(r"\n\s*\n", text):
        fields = {key: value.strip() for key, value in FIELD.findall(stanza)}
        if fields.keys() == {"URIs", "Suites"}:
            yield fields["URIs"].split()[0], fields["Suites"]
