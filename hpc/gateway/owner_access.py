"""The owner's access to a gateway, for tunnels: starts a gateway if none runs."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc.errors import GatewayError
from hpc.gateway import control as gateway_control
from hpc.keys import store as key_store
from hpc.state import directory, files

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import GatewayRecord

KEYS_S = 10.0
"""Seconds for a running gateway to read a changed keys file."""
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Access:
    """The address and key of a gateway for its owner's tunnel.

    Attributes:
        host: address of the gateway's TCP port.
        port: the gateway's TCP port.
        key: the owner's own key.
        version: version of hpc-serve behind the gateway.
        proof_secret: the secret by which the gateway proves itself on each new connection.
        socket: a Unix socket of the gateway, closed to other users, or None.
    """

    host: str
    port: int
    key: str = field(repr=False)
    version: str
    proof_secret: str = field(repr=False)
    socket: str | None = None


def ensure(root: Path, *, models_file: str | None = None) -> Access:
    """Return the owner's access to a gateway, after starting a gateway if none runs.

    This machine's gateway comes first, then an answering one on another machine, such as in a Slurm
    job.

    Args:
        root: the state directory.
        models_file: models.yaml for a new gateway; None searches as the configuration says.

    Raises:
        GatewayError: the gateway did not start; names the cause.
        ConfigError: the keys file is not usable.
    """
    with gateway_control.one_at_a_time(root):
        key = owner_key(root)
        record = gateway_control.find(root) or find_elsewhere(root)
        if record is None:
            more = _private_socket(root)
            record, _ = gateway_control.start_here(
                root, host=gateway_control.HOST, port=None, models_file=models_file, more=more
            )
    deadline = time.monotonic() + KEYS_S
    # A running gateway reads a changed keys.yaml within two seconds: a new key needs a moment.
    shown = {"Authorization": f"Bearer {key}"}
    while not gateway_control.answers(record, "/v1/models", shown):
        if time.monotonic() > deadline:
            raise GatewayError(f"the gateway on {record.hostname} does not take its owner's key")
        time.sleep(POLL_S)
    return Access(
        host=gateway_control.dialled(record),
        port=record.port,
        key=key,
        version=record.version,
        proof_secret=record.proof_secret,
        socket=_socket_of(record),
    )


def owner_key(root: Path) -> str:
    """Return the owner's own key, made anew if missing, revoked or expired.

    Raises:
        ConfigError: the keys file is not usable.
    """
    path, ours = directory.keys_path(root), directory.owner_key_path(root)
    while True:
        kept = (files.read_text(ours) or "").strip()
        known = key_store.load(path)
        if kept and key_store.Keyring(known).find(kept.encode()) is not None:
            return kept
        for entry in known:
            if entry.name == key_store.OWNER and entry.revoked is None:
                key_store.revoke(path, entry.id)
        made, _ = key_store.add(path, key_store.OWNER)
        files.write_text(ours, made + "\n")


def find_elsewhere(root: Path) -> GatewayRecord | None:
    """Return the youngest answering gateway on another machine, or None."""
    here = socket.gethostname()
    others = [record for record in gateway_control.find_all(root) if record.hostname != here]
    for record in sorted(others, key=lambda each: each.started_at, reverse=True):
        if not gateway_control.dialled(record).startswith("127.") and gateway_control.answers(
            record, "/healthz", {}
        ):
            return record
    return None


def _private_socket(root: Path) -> tuple[str, ...]:
    """Return the arguments for a Unix socket, if the file system supports sockets."""
    path = directory.gateway_dir(root, socket.gethostname()) / "gateway.sock"
    # Many shared file systems refuse sockets, or the path is too long: only a trial tells.
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
    """Return the accepting Unix socket of a local gateway, from its record, or None."""
    if record.hostname != socket.gethostname() or record.socket is None:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2.0)
            sock.connect(record.socket)
    except OSError:
        return None
    return record.socket
