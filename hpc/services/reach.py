"""Attempts from the machine of a command at the addresses of ready replicas.

A replica that is READY on its node may lie behind a firewall, or bear a name that is unknown here.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from hpc.model import Phase
from hpc.node import own_door
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hpc.services.phase import ReplicaView, Service

PATIENCE_S = 2.0
AT_ONCE = 32
"""Attempts at once; silent addresses cost their time together."""


def with_notes(root: Path, service: Service) -> Service:
    """Return a service with the failed attempts in the notes of its replicas.

    Args:
        root: state directory.
        service: the service.
    """
    told = notes(root, service)
    replicas = (
        replace(one, note="; ".join(filter(None, (one.note, told.get(one.number)))) or None)
        for one in service.replicas
    )
    return replace(service, replicas=tuple(replicas))


def notes(root: Path, service: Service) -> dict[int, str]:
    """Return the failed attempts at each ready replica, by number; none where the first succeeds.

    Args:
        root: state directory.
        service: the service.
    """
    ready = [one for one in service.replicas if one.phase is Phase.READY and _hosts(one)]
    ways = [(one, host) for one in ready for host in _hosts(one)]
    if not ways:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(ways))) as pool:
        tried = list(pool.map(lambda way: _fault(root, service.spec.name, *way), ways))
    faults: dict[int, dict[str, str | None]] = {one.number: {} for one in ready}
    for (one, host), fault in zip(ways, tried, strict=True):
        faults[one.number][host] = fault
    told = {number: _told(found) for number, found in faults.items()}
    return {number: text for number, text in told.items() if text is not None}


def _hosts(replica: ReplicaView) -> Sequence[str]:
    endpoint = replica.endpoint
    return (endpoint.host, *endpoint.addresses) if endpoint and endpoint.port else ()


def _fault(root: Path, service: str, replica: ReplicaView, host: str) -> str | None:
    """Return the reason why a replica cannot be reached at a host; None if it proves itself."""
    secret = directory.load_secret(root, service, replica.number)
    if replica.endpoint is None or secret is None:
        return "no secret"
    endpoint = replica.endpoint
    door = own_door.OwnDoor(host, endpoint.port, secret, endpoint.certificate)
    try:
        own_door.knock(door, deadline=time.monotonic() + PATIENCE_S)
    except own_door.DoorError as error:
        return str(error)
    return None


def _told(found: dict[str, str | None]) -> str | None:
    """Return one sentence on the attempts at a replica; None if the first host answers."""
    if next(iter(found.values())) is None:
        return None
    failed = "; ".join(f"{host}: {fault}" for host, fault in found.items() if fault is not None)
    good = next((host for host, fault in found.items() if fault is None), None)
    if good is not None:
        return f"reached at {good}, not at {failed}"
    return f"not reached from {socket.gethostname()}: {failed}"
