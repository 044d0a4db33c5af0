"""The merge of all answers into a file, in the input's order, proven complete."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.batch.folder import DONE
from hpc.batch.input import parquet
from hpc.batch.ledger import answers, claims
from hpc.errors import BatchError
from hpc.state import private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from hpc.batch.ledger.filesystem import FileSystem
    from hpc.batch.model import BatchSpec


@dataclass(frozen=True, slots=True)
class Merged:
    """The counts of a merged output."""

    rows: int
    good: int
    failed: int


def rows_of(spec: BatchSpec, chunk: int) -> range:
    """Return the rows of a chunk."""
    start = chunk * spec.chunk_rows
    return range(start, min(start + spec.chunk_rows, spec.rows))


def incomplete(files: FileSystem, folder: Path, spec: BatchSpec) -> Iterator[claims.Claim]:
    """Yield the chunks in ``done`` that lack an answer."""
    for done in claims.listed(files, folder, DONE):
        found = answers.collect(files, folder, done.chunk, done.attempt + 1)
        if any(row not in found for row in rows_of(spec, done.chunk)):
            yield done


def merge(files: FileSystem, folder: Path, spec: BatchSpec) -> Merged:
    """Write the output, whole or not at all.

    Args:
        files: the file system.
        folder: the batch.
        spec: the batch's specification.

    Raises:
        BatchError: a row has no answer, or the output cannot be written; nothing has changed.
    """
    output = Path(spec.output)
    temporary = ""
    try:
        # In the output's own folder: a rename across file systems would not be atomic.
        handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        with os.fdopen(handle, "wb") as file:
            with _writer(output, file) as write:
                merged = _write(files, folder, spec, write)
            file.flush()
            os.fsync(file.fileno())  # before the rename: after a crash the output is whole
        Path(temporary).chmod(private.user_mode())
        Path(temporary).replace(output)
        temporary = ""
    except OSError as error:
        raise BatchError(f"cannot write the output {output}: {error.strerror}") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
    return merged


@contextmanager
def _writer(output: Path, file: BinaryIO) -> Iterator[Callable[[bytes], object]]:
    """Yield the function that writes a line, in the format of the output's suffix."""
    if parquet.is_parquet(output):
        with parquet.writer(file) as write:
            yield write
    else:
        yield lambda line: file.write(line + b"\n")


def _write(
    files: FileSystem, folder: Path, spec: BatchSpec, write: Callable[[bytes], object]
) -> Merged:
    done = {claim.chunk: claim for claim in claims.listed(files, folder, DONE)}
    rows = good = 0
    for chunk in range(spec.chunks):
        if chunk not in done:
            raise BatchError(f"chunk {chunk} of batch {spec.id} is not done")
        found = answers.collect(files, folder, chunk, done[chunk].attempt + 1)
        for row in rows_of(spec, chunk):
            if row not in found:
                raise BatchError(f"request {row} of batch {spec.id} has no answer")
            write(found[row].line)
            rows, good = rows + 1, good + found[row].good
    if rows != spec.rows:
        raise BatchError(f"batch {spec.id} has {spec.rows} requests and {rows} answers")
    return Merged(rows, good, rows - good)
