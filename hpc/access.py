"""The owner's way into a gateway: start what is missing, and say how a tunnel gets there."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc import gateway, keys, pids, state
from hpc.errors import GatewayError

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import GatewayRecord

KEYS_S = 10.0
"""Seconds in which a running gateway must have read a changed keys file."""
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Access:
    """What the owner's tunnel needs to know.

    Attributes:
        key: the owner's own key.
        socket: a Unix socket of the gateway's, which nobody else can connect to, or None.
    """

    host: str
    port: int
    key: str
    version: str
    socket: str | None = None


def ensure(root: Path, *, models_file: str | None = None) -> Access:
    """Return the way into the gateway for its owner, starting what is missing.

    It is this machine's, else one that answers from another, such as a Slurm job's.

    Raises:
        GatewayError: it did not start; says why.
        ConfigError: the keys file may not be used.
    """
    with gateway.one_at_a_time(root):
        key = owner_key(root)
        record = gateway.find(root) or find_elsewhere(root)
        if record is None:
            more = _private_socket(root)
            record, _ = gateway.start_here(
                root, host=gateway.HOST, port=None, models_file=models_file, more=more
            )
    deadline = time.monotonic() + KEYS_S
    shown = {"Authorization": f"Bearer {key}"}
    while not gateway.answers(record, "/v1/models", shown):
        if time.monotonic() > deadline:
            raise GatewayError(f"the gateway on {record.hostname} does not take its owner's key")
        time.sleep(POLL_S)
    return Access(
        host=gateway.dialled(record),
        port=record.port,
        key=key,
        version=record.version,
        socket=_socket_of(record),
    )


def owner_key(root: Path) -> str:
    """Return the owner's own key, made where it is missing, revoked or expired.

    Raises:
        ConfigError: the keys file may not be used.
    """
    path, ours = state.keys_path(root), state.owner_key_path(root)
    while True:
        kept = (state.read_text(ours) or "").strip()
        known = keys.load(path)
        if kept and keys.Keyring(known).find(kept.encode()) is not None:
            return kept
        for entry in known:
            if entry.name == keys.OWNER and entry.revoked is None:
                keys.revoke(path, entry.id)
        made, _ = keys.add(path, keys.OWNER)
        state.write_text(ours, made + "\n")


def find_elsewhere(root: Path) -> GatewayRecord | None:
    """Return the youngest gateway on another machine that answers us, or None."""
    here = socket.gethostname()
    others = [record for record in gateway.find_all(root) if record.hostname != here]
    for record in sorted(others, key=lambda each: each.started_at, reverse=True):
        if not gateway.dialled(record).startswith("127.") and gateway.answers(
            record, "/healthz", {}
        ):
            return record
    return None


def _private_socket(root: Path) -> tuple[str, ...]:
    """Return the arguments for a Unix socket, where the file system can hold one."""
    path = state.gateway_dir(root, socket.gethostname()) / "gateway.sock"
    probe = path.with_suffix(".try")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(probe))
        probe.unlink()
    except OSError:
        return ()
    return ("--unix", str(path))


def _socket_of(record: GatewayRecord) -> str | None:
    """Return the Unix socket that a gateway of this machine was told to listen on."""
    if record.hostname != socket.gethostname():
        return None
    words = pids.arguments(record.pid)
    path = words[words.index("--unix") + 1] if "--unix" in words[:-1] else None
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2.0)
            sock.connect(path or "")
    except OSError:
        return None
    return path
