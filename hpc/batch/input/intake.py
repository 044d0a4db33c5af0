"""The intake of a user's file into chunks: checked as a stream, in constant memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.batch.input import csv_rows, jsonl, parquet
from hpc.batch.input.jsonl import BadLine, InputRequest
from hpc.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

SHOWN = 20
"""Faulty lines that are reported one by one."""
REQUESTS, OFFSETS, REJECTS = "requests.jsonl", "offsets", "rejects.jsonl"
OFFSET_BYTES = 8


@dataclass(slots=True)
class IntakeCheck:
    """The findings in a file.

    Attributes:
        good: number of requests.
        bad: number of faulty lines.
        first: the first faulty lines.
    """

    good: int = 0
    bad: int = 0
    first: list[BadLine] = field(default_factory=list)

    def add(self, found: BadLine) -> None:
        """Count a faulty line."""
        self.bad += 1
        if len(self.first) < SHOWN:
            self.first.append(found)


def unique(
    found: Iterable[InputRequest | BadLine], scratch: Path | None = None
) -> Iterator[InputRequest | BadLine]:
    """Yield requests, and Bad for each request whose custom_id has come before.

    The index of ids is a file on the machine's own disk, so that memory stays constant.

    Args:
        found: requests as they are read.
        scratch: folder for the index; None is the system's.
    """
    with tempfile.TemporaryDirectory(prefix="hpc-serve-ids-", dir=scratch) as folder:
        index = sqlite3.connect(str(Path(folder) / "ids"), isolation_level=None)
        with contextlib.closing(index):
            # A throw-away index: no journal, no fsync, and a cache of 32 MiB (negative is KiB).
            index.execute("PRAGMA journal_mode=OFF")
            index.execute("PRAGMA synchronous=OFF")
            index.execute("PRAGMA cache_size=-32768")
            index.execute("CREATE TABLE ids (id BLOB PRIMARY KEY, line INT) WITHOUT ROWID")
            index.execute("BEGIN")
            for one in found:
                yield _unseen(index, one) if isinstance(one, InputRequest) else one


def _unseen(index: sqlite3.Connection, one: InputRequest) -> InputRequest | BadLine:
    # 16 bytes for an id of any length; the chance of two alike in 10^9 ids is below 10^-20.
    key = hashlib.blake2b(one.custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
    done = index.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, one.number))
    if done.rowcount == 1:
        return one
    line = index.execute("SELECT line FROM ids WHERE id = ?", (key,)).fetchone()[0]
    return BadLine(one.number, f"custom_id {one.custom_id!r} is that of line {line}")


def read(
    path: Path, model: str | None, template: Path | None, *, any_model: bool = False
) -> Iterator[InputRequest | BadLine]:
    """Yield the requests of a file of any kind; a repeated custom_id is yielded as Bad.

    Args:
        path: the file; the suffix ``.parquet`` marks a Parquet file.
        model: model name for requests without a model, and the only one allowed.
        template: Jinja2 template of the message for each row of a table.
        any_model: send lines that name another model to this one, too.

    Raises:
        ConfigError: a file cannot be read.
    """
    if parquet.is_parquet(path):
        return unique(parquet.read(path, model, template, any_model=any_model))
    if template is not None:
        return unique(csv_rows.read(path, model, template))
    return unique(jsonl.read(path, model, any_model=any_model))


def validate(found: Iterable[InputRequest | BadLine]) -> IntakeCheck:
    """Read a whole file and return its faults.

    Raises:
        ConfigError: the file cannot be read.
    """
    seen = IntakeCheck()
    for one in found:
        if isinstance(one, BadLine):
            seen.add(one)
        else:
            seen.good += 1
    return seen


def take_in(
    found: Iterable[InputRequest | BadLine], folder: Path, *, chunk_rows: int, skip_bad: bool
) -> IntakeCheck:
    """Write the requests of a batch into the batch's folder for its workers.

    Args:
        found: requests and faulty lines.
        folder: the batch.
        chunk_rows: requests in a chunk.
        skip_bad: write faulty lines to the rejects file and go on.

    Raises:
        BatchError: a line is faulty, the file has no request, or the folder cannot be written.
    """
    seen = IntakeCheck()
    try:
        with (
            _private(folder / REQUESTS) as requests,
            _private(folder / OFFSETS) as offsets,
            _private(folder / REJECTS) as rejects,
        ):
            for one in found:
                if isinstance(one, BadLine):
                    seen.add(one)
                    rejects.write(_reject(one))
                    continue
                if seen.good % chunk_rows == 0:
                    offsets.write(requests.tell().to_bytes(OFFSET_BYTES, "big"))
                requests.write(one.line())
                seen.good += 1
            offsets.write(requests.tell().to_bytes(OFFSET_BYTES, "big"))
            for file in (requests, offsets, rejects):
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise BatchError(f"cannot write to {folder}: {error.strerror}") from error
    _refuse(seen, skip_bad=skip_bad)
    return seen


def _private(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _reject(bad: BadLine) -> bytes:
    text = bad.text.decode(errors="replace").rstrip("\r\n")
    return json.dumps({"line": bad.number, "reason": bad.reason, "text": text}).encode() + b"\n"


def _refuse(seen: IntakeCheck, *, skip_bad: bool) -> None:
    if seen.bad and not skip_bad:
        one = seen.first[0]
        hint = "see all with 'hpc-serve batch validate', or leave them out with --skip-bad"
        if one.reason.startswith(jsonl.OTHER_MODEL):
            hint = "with --any-model this batch's model answers every line, or see --skip-bad"
        raise BatchError(
            f"{seen.bad} line(s) are no request; line {one.number}: {one.reason}", hint=hint
        )
    if not seen.good:
        raise BatchError("there is no request in the file")


def requests(folder: Path, chunk: int) -> list[bytes]:
    """Return the lines of a chunk.

    Raises:
        BatchError: the lines cannot be read.
    """
    # Two neighbouring offsets bound a chunk, so that no worker reads the whole file of requests.
    try:
        with (folder / OFFSETS).open("rb") as file:
            file.seek(chunk * OFFSET_BYTES)
            start = int.from_bytes(file.read(OFFSET_BYTES), "big")
            end = int.from_bytes(file.read(OFFSET_BYTES), "big")
        with (folder / REQUESTS).open("rb") as file:
            file.seek(start)
            return file.read(end - start).splitlines()
    except OSError as error:
        raise BatchError(f"cannot read chunk {chunk} in {folder}: {error.strerror}") from error
