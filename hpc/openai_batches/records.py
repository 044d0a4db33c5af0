"""The gateway's stored files and OpenAI batches: records on disk, each with one writer.

    files/KEY/FILE/meta.json, content            an upload, or a batch's output
    openai-batches/open/KEY.BATCH                an empty file for each open batch
    openai-batches/KEY/BATCH/batch.json, cancel  written by the gateway
    openai-batches/KEY/BATCH/progress.json       written by the batch processor

KEY is the id of a client key: another key's files and batches lie in another folder, so no check
of ownership can be forgotten.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping  # noqa: TC003 - records are decoded by their types
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc import api_paths
from hpc.errors import StateError
from hpc.state import directory, records
from hpc.state import files as state_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
KEY_ID = re.compile(r"[0-9a-f]{8}")
DRAFT = ".draft-"
STALE_S = 24 * 3600.0
"""Seconds after which an unfinished file belongs to a process that has ended."""
FINAL = frozenset({"failed", "completed", "expired", "cancelled"})
ENDPOINTS = tuple(api_paths.BATCHED)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A stored file of a client key; times are whole Unix seconds.

    Attributes:
        id: ``file-`` and 24 hexadecimal digits.
        key: id of the key.
        filename: name given by the client.
        purpose: ``batch`` or ``batch_output``.
        size: bytes.
        created_at: time of creation.
        expires_at: time from which the file is no longer found, or None.
    """

    id: str
    key: str
    filename: str
    purpose: str
    size: int
    created_at: int
    expires_at: int | None = None
    schema: int = 1


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """The record of an OpenAI batch as requested; times are whole Unix seconds.

    Attributes:
        id: ``batch_`` and 24 hexadecimal digits.
        key: id of the key.
        file: id of the file with the requests.
        endpoint: path that every request must have.
        window: completion window, as requested.
        created_at: time of creation.
        expires_at: time after which no further request is made.
        metadata: the client's own notes.
        hostname: machine whose gateway accepted the batch.
        models: names of the models that the key may use, at the batch's creation.
        most_bytes: most bytes of the file, once unpacked.
        output_s: seconds for which the files of answers are kept; None is for ever.
    """

    id: str
    key: str
    file: str
    endpoint: str
    window: str
    created_at: int
    expires_at: int
    metadata: Mapping[str, str] | None = None
    hostname: str = ""
    models: tuple[str, ...] = ()
    most_bytes: int = 2**29
    output_s: int | None = None
    schema: int = 1


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The progress of an OpenAI batch; times are whole Unix seconds.

    Attributes:
        status: OpenAI's status, except ``cancelling``, which the file ``cancel`` marks.
        batch: id of the hpc batch that answers.
        hostname: machine of the responsible batch processor.
        total: number of requests.
        completed: number of answered requests.
        failed: number of requests that ended in an error.
        in_progress_at: time at which the intake was complete, or None.
        finalizing_at: time at which writing of the outputs began, or None.
        ended_at: time of the end, or None.
        output: id of the output file, or None.
        error: id of the error file, or None.
        errors: faults of the input file, in OpenAI's wording.
        usage: ``input_tokens``, ``cached_tokens``, ``output_tokens``, ``reasoning_tokens`` of the
            answers, once the outputs are written.
    """

    status: str = "validating"
    batch: str | None = None
    hostname: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    ended_at: int | None = None
    output: str | None = None
    error: str | None = None
    errors: tuple[Mapping[str, str | int | None], ...] = ()
    usage: Mapping[str, int] | None = None
    schema: int = 1


def file_dir(root: Path, key: str, file: str) -> Path:
    """Return the folder of a stored file."""
    return directory.stored_files_dir(root, key) / file


def record_dir(root: Path, key: str, batch: str) -> Path:
    """Return the folder of a batch."""
    return directory.batch_records_dir(root, key) / batch


def new_id(prefix: str) -> str:
    """Return a new id."""
    return prefix + secrets.token_hex(12)


def load_file(root: Path, key: str, file: str) -> StoredFile | None:
    """Return the record of a key's file, or None if there is none, or no longer."""
    found = _load_file(root, key, file)
    return None if found is None or _is_over(found, time.time()) else found


def _load_file(root: Path, key: str, file: str) -> StoredFile | None:
    if not FILE_ID.fullmatch(file):
        return None
    return records.read_record(file_dir(root, key, file) / "meta.json", StoredFile)


def _is_over(file: StoredFile, now: float) -> bool:
    return file.expires_at is not None and now >= file.expires_at


def remove_expired(root: Path, now: float) -> None:
    """Remove the files of all keys that have expired.

    Args:
        root: the state directory.
        now: Unix time.

    Raises:
        StateError: a file cannot be removed.
    """
    folder = directory.stored_files_dir(root, "")
    for key in filter(KEY_ID.fullmatch, _names(folder)):
        for name in _names(folder / key):
            found = _load_file(root, key, name)
            if found is not None and _is_over(found, now):
                drop_file(root, key, name)


def load_batch(root: Path, key: str, batch: str) -> BatchRecord | None:
    """Return the record of a key's batch, or None."""
    if not BATCH_ID.fullmatch(batch):
        return None
    return records.read_record(record_dir(root, key, batch) / "batch.json", BatchRecord)


def load_progress(root: Path, order: BatchRecord) -> BatchProgress:
    """Return the progress of a batch."""
    path = record_dir(root, order.key, order.id) / "progress.json"
    return records.read_record(path, BatchProgress) or BatchProgress()


def files(root: Path, key: str) -> list[StoredFile]:
    """Return all files of a key, the newest first."""
    found = (load_file(root, key, name) for name in _names(directory.stored_files_dir(root, key)))
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.created_at, one.id), reverse=True)


def batches(root: Path, key: str) -> list[BatchRecord]:
    """Return all batches of a key, the newest first."""
    found = (load_batch(root, key, name) for name in _names(directory.batch_records_dir(root, key)))
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.created_at, one.id), reverse=True)


def open_batches(root: Path) -> Iterator[tuple[str, str]]:
    """Yield key and id of each open batch."""
    for name in _names(directory.open_batches_dir(root)):
        key, _, batch = name.partition(".")
        if KEY_ID.fullmatch(key) and BATCH_ID.fullmatch(batch):
            yield key, batch


def place(root: Path, order: BatchRecord) -> None:
    """Record a requested batch, for the batch processor to find.

    Raises:
        StateError: the record cannot be written.
    """
    # The mark first: a mark without a record is harmless, a record without one is never found.
    mark = _mark(root, order.key, order.id)
    try:
        state_files.make_folder(mark.parent)
        mark.touch(mode=0o600)
    except OSError as error:
        raise StateError(f"cannot write {mark}: {error.strerror}") from error
    try:
        records.write_record(record_dir(root, order.key, order.id) / "batch.json", order)
    except StateError:
        close(root, order.key, order.id)
        raise


def close(root: Path, key: str, batch: str) -> None:
    """Remove a finished batch from the list of open batches."""
    with contextlib.suppress(OSError):
        _mark(root, key, batch).unlink(missing_ok=True)


def cancel(root: Path, order: BatchRecord) -> None:
    """Record a request to cancel a batch; only the first request counts.

    Raises:
        StateError: the record cannot be written.
    """
    if cancelled_at(root, order) is None:
        path = record_dir(root, order.key, order.id) / "cancel"
        state_files.write_text(path, f"{int(time.time())}\n")


def cancelled_at(root: Path, order: BatchRecord) -> int | None:
    """Return the Unix time of the request to cancel a batch, or None."""
    text = (state_files.read_text(record_dir(root, order.key, order.id) / "cancel") or "").strip()
    return int(text) if text.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Stock:
    """The room that a key's files take, unfinished files included.

    Attributes:
        files: number of files.
        size: bytes, as announced for unfinished files.
    """

    files: int
    size: int


def stock(root: Path, key: str) -> Stock:
    """Return the room that a key's files take, and remove drafts older than a day."""
    drafts = []
    for path in directory.stored_files_dir(root, key).glob(f"{DRAFT}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
                continue
        drafts.append(int(path.suffix[1:] or 0))
    known = files(root, key)
    return Stock(len(known) + len(drafts), sum(one.size for one in known) + sum(drafts))


def count_open(root: Path, key: str) -> int:
    """Return the number of a key's open batches."""
    return sum(name.startswith(f"{key}.") for name in _names(directory.open_batches_dir(root)))


def forget_oldest(root: Path, key: str, most: int) -> None:
    """Remove the records of a key's oldest finished batches, beyond a number of all its batches."""
    known = batches(root, key)
    for order in known[most:]:
        if not _mark(root, key, order.id).exists():
            shutil.rmtree(record_dir(root, key, order.id), ignore_errors=True)


def drafted(root: Path, key: str, size: int = 0) -> Path:
    """Make and return a folder for an unfinished file.

    Args:
        root: the state directory.
        key: id of the key.
        size: bytes that the file may have, which its name tells to ``stock``.

    Raises:
        StateError: the folder cannot be made.
    """
    path = directory.stored_files_dir(root, key) / f"{DRAFT}{new_id('')}.{size}"
    try:
        state_files.make_folder(path, exist_ok=False)
    except OSError as error:
        raise StateError(f"cannot make {path}: {error.strerror}") from error
    return path


def keep(root: Path, draft: Path, file: StoredFile) -> None:
    """Turn a draft, with its content, into a stored file; an existing file of the id stays.

    Raises:
        StateError: the file cannot be written.
    """
    final = file_dir(root, file.key, file.id)
    records.write_record(draft / "meta.json", file)
    try:
        # A processor that was killed half-way repeats the step under the same id.
        if final.exists():
            shutil.rmtree(draft)
        else:
            draft.rename(final)
    except OSError as error:
        raise StateError(f"cannot write {final}: {error.strerror}") from error


def drop_file(root: Path, key: str, file: str) -> None:
    """Remove a stored file.

    Raises:
        StateError: the file cannot be removed.
    """
    final = file_dir(root, key, file)
    gone = final.with_name(f".{new_id('gone-')}")
    try:
        final.rename(gone)  # a reader must not find a half-removed file
        shutil.rmtree(gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot remove {final}: {error.strerror}") from error


def _mark(root: Path, key: str, batch: str) -> Path:
    return directory.open_batches_dir(root) / f"{key}.{batch}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
    except OSError:
        return []
