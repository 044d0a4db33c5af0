"""The answers of a batch on disk: checksummed lines, in files with a single writer each."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.batch.folder import BatchFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hpc.batch.ledger.filesystem import FileSystem


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """The outcome of a request.

    Attributes:
        row: number of the request in the batch, from 0.
        good: whether the engine answered the request; False marks its final error.
        line: the line of the output, JSON without a line break.
    """

    row: int
    good: bool
    line: bytes


def encode(answer: RowAnswer) -> bytes:
    """Return an answer as a line: checksum, row, outcome, output."""
    body = b"%d %d %s" % (answer.row, answer.good, answer.line)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def append(files: FileSystem, path: Path, answers: Iterable[RowAnswer]) -> None:
    """Make a group of answers durable.

    The group begins on a new line, so that the torn end of an earlier, failed write spoils nothing.

    Raises:
        OSError: the group may not be on disk; appending the same group again does no harm.
    """
    files.append(path, b"\n" + b"".join(map(encode, answers)))


def decode(data: bytes) -> Iterator[RowAnswer]:
    """Yield the complete answers of a file; torn lines are skipped."""
    # A killed worker or a full disk tears a line; the checksum tells a torn line from a whole one.
    *lines, _torn = data.split(b"\n")
    for line in lines:
        checksum, _, body = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(body):
            continue
        row, good, text = body.split(b" ", 2)
        yield RowAnswer(int(row), good == b"1", text)


def collect(files: FileSystem, folder: Path, chunk: int, attempts: int) -> dict[int, RowAnswer]:
    """Return the answers that earlier claims of a chunk left, at most one for each row.

    A good answer wins over an error, and an earlier answer over a later one.

    Args:
        files: the file system.
        folder: the batch.
        chunk: number of the chunk.
        attempts: number of claims so far.
    """
    found: dict[int, RowAnswer] = {}
    for attempt in range(attempts):
        for answer in decode(files.read(BatchFolder(folder).answers(chunk, attempt))):
            before = found.get(answer.row)
            if before is None or (answer.good and not before.good):
                found[answer.row] = answer
    return found
