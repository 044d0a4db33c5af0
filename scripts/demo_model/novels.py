"""Fetch Jane Austen's six novels (public domain) as plain text from Debian's r-cran-janeaustenr."""

from __future__ import annotations

import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

PACKAGE = "r-cran-janeaustenr"
STRING_VECTOR = 16


def fetch_novels() -> str:
    """Download the package through apt, unpack it and read the novels out of it.

    Raises:
        SystemExit: apt or dpkg failed, or the package has another form than expected.
    """
    with tempfile.TemporaryDirectory() as folder:
        run(["apt-get", "download", PACKAGE], folder)
        package = next(Path(folder).glob(f"{PACKAGE}_*.deb"))
        run(["dpkg-deb", "-x", package.name, "unpacked"], folder)
        databases = list(Path(folder, "unpacked").rglob("data/Rdata.rdb"))
        if len(databases) != 1:
            message = f"{package.name} holds {len(databases)} files data/Rdata.rdb, expected one"
            raise SystemExit(message)
        return join(read_database(databases[0].read_bytes()))


def join(novels: list[list[str]]) -> str:
    """Join all lines but the one with a pound sign, which the bundled model never saw."""
    return "\n\n".join("\n".join(filter(str.isascii, lines)) for lines in novels)


def run(command: list[str], folder: str) -> None:
    """Run *command* in *folder*, or end with what it printed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        message = f"{command[0]} not found: on this system give the text with --text FILE"
        raise SystemExit(message) from error
    if done.returncode:
        message = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise SystemExit(message)


def read_database(raw: bytes) -> list[list[str]]:
    """Read the character vectors of an R lazy-load database (.rdb).

    Args:
        raw: the file: for each object its unpacked length (4 bytes, big endian) and a zlib stream.
    """
    vectors = []
    while raw:
        stream = zlib.decompressobj()
        vectors.append(read_strings(stream.decompress(raw[4:])))
        raw = stream.unused_data
    return vectors


def read_strings(data: bytes) -> list[str]:
    """Read one character vector in R's XDR serialisation ("R Internals", section 1.8).

    Raises:
        SystemExit: *data* holds something else than a character vector.
    """
    offset = 14
    if struct.unpack_from(">i", data, 2)[0] == 3:  # which names the encoding in its header
        offset += 4 + struct.unpack_from(">i", data, offset)[0]
    flags, count = struct.unpack_from(">ii", data, offset)
    if flags & 0xFF != STRING_VECTOR:
        message = "the R database holds something else than character vectors"
        raise SystemExit(message)
    offset += 8
    strings = []
    for _ in range(count):
        flags, size = struct.unpack_from(">ii", data, offset)
        offset += 8
        strings.append(data[offset : offset + max(size, 0)].decode())
        offset += max(size, 0)
    return strings
