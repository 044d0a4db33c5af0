"""Records of open tunnels on the laptop: the route, and the key in a file beside."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.processes import by_pid
from hpc.state import directory, files, records

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """An open tunnel, named by its local port; the key has its own file.

    Attributes:
        login: account and login node.
        port: the local port, on 127.0.0.1.
        pid: the process that holds the port.
        process: identity of that process, by ``hpc.processes.by_pid``.
        version: version of hpc-serve on the login node.
        state: "up", or "down" while reconnecting.
        way: the route's end, as the login node sees it.
        started_at: Unix time.
        background: whether ``connect --stop`` may end the process.
    """

    login: str
    port: int
    pid: int
    version: str
    state: str = "up"
    way: str = ""
    started_at: float = 0.0
    background: bool = False
    process: str = ""
    schema: int = 1


def key_path(root: Path, port: int) -> Path:
    """Return the file with the key of the open tunnel at a local port."""
    return directory.connections_dir(root) / f"{port}.key"


def save(root: Path, record: TunnelRecord, key: str) -> None:
    """Write the record and the key, readable by their owner only.

    Raises:
        StateError: the folder cannot be written to.
    """
    # The key first: whoever finds the record may read the key at once.
    files.write_text(key_path(root, record.port), key + "\n")
    records.write_record(_path(root, record.port), record)


def mark(root: Path, port: int, condition: str) -> None:
    """Record the tunnel at a local port as up or down."""
    record = records.read_record(_path(root, port), TunnelRecord)
    if record is not None and record.pid == os.getpid() and record.state != condition:
        with contextlib.suppress(StateError):
            records.write_record(_path(root, port), replace(record, state=condition))


def living(root: Path) -> list[TunnelRecord]:
    """Return the open tunnels of the machine, by port; records of dead processes are removed."""
    found = []
    for path in sorted((directory.connections_dir(root)).glob("*.json")):
        record = records.read_record(path, TunnelRecord)
        if record is None:
            continue
        if by_pid.alive(record.process):
            found.append(record)
        else:
            drop(root, record.port)
    return sorted(found, key=lambda record: record.port)


def drop(root: Path, port: int) -> None:
    """Remove the record and the key."""
    for path in (_path(root, port), key_path(root, port)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def holder(root: Path, port: int) -> str | None:
    """Return a description of our own tunnel at a local port, or None."""
    record = records.read_record(_path(root, port), TunnelRecord)
    if record is None or record.pid == os.getpid() or not by_pid.alive(record.process):
        return None
    return f"hpc-serve connect {record.login} (process {record.pid})"


def _path(root: Path, port: int) -> Path:
    return directory.connections_dir(root) / f"{port}.json"
