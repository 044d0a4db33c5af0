"""Batch files as text, whatever they are packed and encoded in.

Packed files are known by their first bytes, not by their names: gzip, bzip2, xz and zstd. Text is
UTF-8, with or without a byte order mark, UTF-16 or UTF-32. A file of JSON has one document per
line, or is one array of documents.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, AnyStr

from hpc import own_source
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO, TextIO

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
BEGINNING = 4096
"""Bytes by which the encoding and an array are told."""
PIECE = 64 * 1024
LINE_LIMIT = 16 * 1024 * 1024
"""Largest document in bytes; OpenAI allows 200 MB for a whole file of 50,000 requests."""
FAULTY = {"utf-8": "surrogateescape", "utf-8-sig": "surrogateescape"}
"""Error handlers that keep invalid text as surrogates, for the fault of its own document."""
BLANKS = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()


class UnreadableFileError(ConfigError):
    """A file that is there cannot be unpacked, or read to its end."""


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """Yield the unpacked bytes of a file.

    Args:
        path: the file.
        most: most bytes of the unpacked file; None is no bound.

    Raises:
        ConfigError: the file cannot be read or unpacked, or is too large.
    """
    try:
        with path.open("rb") as file, _unpacked(file, path) as plain:
            yield plain if most is None else io.BufferedReader(_Bounded(plain, path, most))
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UnreadableFileError(f"cannot unpack {path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _unpacked(file: BinaryIO, path: Path) -> Any:
    """Return the unpacked bytes of an open file."""
    begins = file.read(8)
    file.seek(0)
    if begins.startswith(ZSTD):
        return _zstd(file, path)
    if begins.startswith(GZIP):
        return gzip.open(file)
    if begins.startswith(BZIP2):
        return bz2.open(file)
    return lzma.open(file) if begins.startswith(XZ) else file


def _zstd(file: BinaryIO, path: Path) -> BinaryIO:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnreadableFileError(
            f"{path} is packed by zstd, which needs pyarrow",
            hint=own_source.pip_command("parquet"),
        ) from error
    return io.BufferedReader(pa.CompressedInputStream(file, "zstd"))


class _Bounded(io.RawIOBase):
    """A file of bounded size.

    Args:
        file: the file.
        path: path for the error.
        most: most bytes of the file.
    """

    def __init__(self, file: BinaryIO, path: Path, most: int) -> None:
        self._file, self._path, self._most = file, path, most

    def readable(self) -> bool:
        """Return that bytes can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and return the number of bytes.

        Raises:
            UnreadableFileError: the file is too large.
        """
        data = self._file.read(len(buffer))
        self._most -= len(data)
        if self._most < 0:
            raise UnreadableFileError(f"{self._path} is too large once unpacked")
        buffer[: len(data)] = data
        return len(data)


def _encoding(path: Path) -> str:
    """Return the encoding of a file, by its first characters."""
    with opened(path) as file:
        return json.detect_encoding(file.read(4))


@contextmanager
def text(path: Path, most: int | None = None, newline: str = "") -> Iterator[TextIO]:
    """Yield the text of a file; what is invalid in its encoding becomes surrogates.

    Args:
        path: the file.
        most: most bytes of the unpacked file; None is no bound.
        newline: the end of lines, as for ``open``.

    Raises:
        ConfigError: the file cannot be read or unpacked, or is too large.
    """
    encoding = _encoding(path)
    errors = FAULTY.get(encoding, "surrogatepass")
    with opened(path, most) as file:
        try:
            yield io.TextIOWrapper(file, encoding, errors=errors, newline=newline)
        except UnicodeDecodeError as error:  # half a unit of UTF-16 or UTF-32 at the end
            raise UnreadableFileError(f"{path} is not in {encoding}: {error}") from error


def documents(path: Path, most: int | None = None) -> Iterator[bytes]:
    """Yield the documents of a file of JSON in UTF-8: its lines, or the items of its one array.

    A line above LINE_LIMIT is cut, so that memory holds no more than the limit.

    Args:
        path: the file.
        most: most bytes of the unpacked file; None is no bound.

    Raises:
        ConfigError: the file cannot be read or unpacked, is too large, or its array is broken.
    """
    encoding = _encoding(path)
    with text(path) as file:
        array = file.read(BEGINNING).lstrip().startswith("[")
    if encoding == "utf-8" and not array:
        with opened(path, most) as plain:
            yield from _lines(plain, b"\n")
        return
    errors = FAULTY.get(encoding, "surrogatepass")
    with text(path, most, newline="\n") as file:
        for one in _Array(path, file) if array else _lines(file, "\n"):
            yield one.encode("utf-8", errors)


def count(path: Path) -> int:
    """Return the number of documents of a file of JSON.

    Raises:
        ConfigError: the file cannot be read or unpacked.
    """
    return sum(1 for _ in documents(path))


def count_lines(path: Path) -> int:
    """Return the number of ends of lines in a file.

    Raises:
        ConfigError: the file cannot be read or unpacked.
    """
    with opened(path) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _lines(file: IO[AnyStr], end: AnyStr) -> Iterator[AnyStr]:
    while line := file.readline(LINE_LIMIT + 1):
        rest = line
        while len(rest) > LINE_LIMIT and not rest.endswith(end):
            rest = file.readline(LINE_LIMIT + 1)
        yield line


class _Array:
    """The items of an array as text, a few in memory at a time.

    Args:
        path: path for errors.
        file: the file, from its beginning.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._held, self._at = "", 0
        self._next()
        self._at += 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while (char := self._next()) != "]":
            if number and char != ",":
                raise self._broken(number, "a comma is missing" if char else "the array ends here")
            self._at += bool(number)
            self._next()
            number += 1
            yield self._item(number)
        self._at += 1
        if self._next():
            raise self._broken(number, "more text stands behind the array")

    def _more(self) -> bool:
        """Read on, as much again as is held; return False at the end of the file."""
        held = self._held[self._at :]
        more = self._file.read(max(PIECE, len(held)))
        self._held, self._at = held + more, 0
        return bool(more)

    def _next(self) -> str:
        """Go on to the next character that is no blank, and return it; empty at the end."""
        while True:
            found = BLANKS.match(self._held, self._at)
            self._at = self._at if found is None else found.end()
            if self._at < len(self._held) or not self._more():
                return self._held[self._at : self._at + 1]

    def _item(self, number: int) -> str:
        while True:
            try:
                _, end = DECODER.raw_decode(self._held, self._at)
            except ValueError as error:
                if len(self._held) - self._at > LINE_LIMIT or not self._more():
                    raise self._broken(number, str(error)) from None
            except RecursionError:
                raise self._broken(number, "it is nested too deeply") from None
            else:
                # A number goes on, if the held text ends within it.
                if end < len(self._held) or not self._more():
                    break
        item, self._at = self._held[self._at : end], end
        return item

    def _broken(self, number: int, why: str) -> UnreadableFileError:
        return UnreadableFileError(f"{self._path} is no JSON array: at item {number}, {why}")
