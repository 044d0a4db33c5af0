"""The owner's access to a gateway, for tunnels: starts a gateway if none runs."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from hpc.errors import GatewayError
from hpc.gateway import control as gateway_control
from hpc.gateway import reach
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
        record = gateway_control.find(root) or gateway_control.find_elsewhere(root)
        if record is None:
            record, _ = gateway_control.start_here(
                root, host=gateway_control.HOST, port=None, models_file=models_file
            )
    models(record, key)
    private = record.socket if record.hostname == socket.gethostname() else None
    return Access(
        host=reach.proved_address(record),
        port=record.port,
        key=key,
        version=record.version,
        proof_secret=record.proof_secret,
        socket=private if private is not None and reach.proves(record, private) else None,
    )


def models(record: GatewayRecord, key: str) -> set[str]:
    """Return the names of a gateway's models, as soon as the gateway takes its owner's key.

    A running gateway reads a changed keys.yaml within two seconds, so a new key needs a moment.

    Raises:
        GatewayError: the gateway does not take the key, or is gone.
    """
    deadline = time.monotonic() + KEYS_S
    while True:
        got = reach.get(record, "/v1/models", key)
        if got.status == HTTPStatus.OK:
            return {str(one["id"]) for one in got.content["data"]}
        if time.monotonic() > deadline:
            raise GatewayError(f"the gateway on {record.hostname} does not take its owner's key")
        time.sleep(POLL_S)


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
