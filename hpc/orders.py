"""Files and batches that came through the gateway: records on disk, each with one writer.

    files/KEY/FILE/meta.json, content      an upload, or what a batch answered
    orders/open/KEY.BATCH                  an empty file per batch that is not over
    orders/KEY/BATCH/order.json, cancel    written by the gateway
    orders/KEY/BATCH/progress.json         written by the clerk, who sees to batches

KEY is the id of a key: what another key made is in another folder, and is not found.
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

from hpc import state
from hpc.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{24}")
KEY_ID = re.compile(r"[0-9a-f]{8}")
FINAL = frozenset({"failed", "completed", "expired", "cancelled"})
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a key owns; times are whole Unix seconds.

    Attributes:
        id: ``file-`` and 24 hexadecimal digits.
        key: id of the key.
        filename: as the client named it.
        purpose: ``batch`` or ``batch_output``.
        size: bytes.
    """

    id: str
    key: str
    filename: str
    purpose: str
    size: int
    created_at: int
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """A batch as it was asked for.

    Attributes:
        id: ``batch_`` and 24 hexadecimal digits.
        key: id of the key.
        file: id of the file with its requests.
        endpoint: path that every request must have.
        window: how long it may take, as it was asked for.
        expires_at: Unix time after which no further request is made.
        metadata: the client's own notes.
        hostname: machine whose gateway took it.
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
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is; times are whole Unix seconds.

    Attributes:
        status: as OpenAI names it, but for ``cancelling``, which the file ``cancel`` says.
        batch: id of the batch of ours that answers it.
        hostname: machine whose clerk sees to it.
        total: requests.
        completed: those that were answered.
        failed: those that ended in an error.
        errors: what is wrong with the file, as OpenAI words it.
        usage: ``input_tokens``, ``cached_tokens``, ``output_tokens``, ``reasoning_tokens`` of its
            answers, once they are handed over.
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
    """Return the folder of a file."""
    return root / "files" / key / file


def order_dir(root: Path, key: str, batch: str) -> Path:
    """Return the folder of a batch."""
    return root / "orders" / key / batch


def new_id(prefix: str) -> str:
    """Return a new id."""
    return prefix + secrets.token_hex(12)


def load_file(root: Path, key: str, file: str) -> StoredFile | None:
    """Return what is known of a key's file, or None."""
    if not FILE_ID.fullmatch(file):
        return None
    return state.read_record(file_dir(root, key, file) / "meta.json", StoredFile)


def load_order(root: Path, key: str, batch: str) -> Order | None:
    """Return a key's batch as it was asked for, or None."""
    if not BATCH_ID.fullmatch(batch):
        return None
    return state.read_record(order_dir(root, key, batch) / "order.json", Order)


def load_progress(root: Path, order: Order) -> Progress:
    """Return how far a batch is."""
    path = order_dir(root, order.key, order.id) / "progress.json"
    return state.read_record(path, Progress) or Progress()


def files(root: Path, key: str) -> list[StoredFile]:
    """Return all files of a key, the newest first."""
    found = (load_file(root, key, name) for name in _names(root / "files" / key))
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.created_at, one.id), reverse=True)


def orders(root: Path, key: str) -> list[Order]:
    """Return all batches of a key, the newest first."""
    found = (load_order(root, key, name) for name in _names(root / "orders" / key))
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.created_at, one.id), reverse=True)


def open_orders(root: Path) -> Iterator[tuple[str, str]]:
    """Yield key and id of each batch that is not over."""
    for name in _names(root / "orders" / "open"):
        key, _, batch = name.partition(".")
        if KEY_ID.fullmatch(key) and BATCH_ID.fullmatch(batch):
            yield key, batch


def place(root: Path, order: Order) -> None:
    """Write down a batch that was asked for, for the clerk to find.

    Raises:
        StateError: it cannot be written.
    """
    mark = _mark(root, order.key, order.id)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch(mode=0o600)
    except OSError as error:
        raise StateError(f"cannot write {mark}: {error.strerror}") from error
    try:
        state.write_record(order_dir(root, order.key, order.id) / "order.json", order)
    except StateError:
        close(root, order.key, order.id)
        raise


def close(root: Path, key: str, batch: str) -> None:
    """Take a batch that is over off the list of open ones."""
    with contextlib.suppress(OSError):
        _mark(root, key, batch).unlink(missing_ok=True)


def cancel(root: Path, order: Order) -> None:
    """Say that a batch is to end; the first time counts.

    Raises:
        StateError: it cannot be written.
    """
    if cancelled_at(root, order) is None:
        path = order_dir(root, order.key, order.id) / "cancel"
        state.write_text(path, f"{int(time.time())}\n")


def cancelled_at(root: Path, order: Order) -> int | None:
    """Return when somebody asked for the end of a batch, or None."""
    text = (state.read_text(order_dir(root, order.key, order.id) / "cancel") or "").strip()
    return int(text) if text.isdecimal() else None


def drafted(root: Path, key: str) -> Path:
    """Make and return a folder for a file that is not whole yet.

    Raises:
        StateError: it cannot be made.
    """
    path = root / "files" / key / f".{new_id('draft-')}"
    try:
        path.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise StateError(f"cannot make {path}: {error.strerror}") from error
    return path


def keep(root: Path, draft: Path, file: StoredFile) -> None:
    """Turn a draft, with its content, into a file; one of that id which is there stays.

    Raises:
        StateError: it cannot be written.
    """
    final = file_dir(root, file.key, file.id)
    state.write_record(draft / "meta.json", file)
    try:
        if final.exists():
            shutil.rmtree(draft)
        else:
            draft.rename(final)
    except OSError as error:
        raise StateError(f"cannot write {final}: {error.strerror}") from error


def drop_file(root: Path, key: str, file: str) -> None:
    """Remove a file.

    Raises:
        StateError: it cannot be removed.
    """
    final = file_dir(root, key, file)
    gone = final.with_name(f".{new_id('gone-')}")
    try:
        final.rename(gone)  # so that nobody finds it half removed
        shutil.rmtree(gone)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"cannot remove {final}: {error.strerror}") from error


def _mark(root: Path, key: str, batch: str) -> Path:
    return root / "orders" / "open" / f"{key}.{batch}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
    except OSError:
        return []
