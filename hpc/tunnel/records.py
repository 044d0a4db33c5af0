"""What a tunnel leaves on the laptop while it is open: where it leads, and the key beside it."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc import process, state
from hpc.tunnel.link import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """An open tunnel, named by its local port; the key is in a file of its own.

    Attributes:
        login: account and login node.
        port: the local port, on 127.0.0.1.
        pid: the process that holds it.
        version: of hpc-serve on the login node.
    """

    login: str
    port: int
    pid: int
    version: str
    schema: int = 1


def key_path(root: Path, port: int) -> Path:
    """Return the file that holds the key while the tunnel at a local port is open."""
    return root / "connections" / f"{port}.key"


def save(root: Path, record: TunnelRecord, key: str) -> None:
    """Write the record and the key, readable by their owner only.

    Raises:
        StateError: the folder cannot be written to.
    """
    state.write_text(key_path(root, record.port), key + "\n")
    state.write_record(_path(root, record.port), record)


def drop(root: Path, port: int) -> None:
    """Remove what ``save`` wrote."""
    for path in (_path(root, port), key_path(root, port)):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def holder(root: Path, port: int) -> str | None:
    """Name the connection of ours that holds a local port, or None."""
    record = state.read_record(_path(root, port), TunnelRecord)
    if record is None or record.pid == os.getpid() or not process.alive(record.pid, marker=""):
        return None
    return f"hpc-serve connect {record.login} (process {record.pid})"


def free_port() -> int:
    """Return a port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _path(root: Path, port: int) -> Path:
    return root / "connections" / f"{port}.json"
