"""A service's status as text for people and as JSON for scripts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hpc.model import Phase
from hpc.state import records

if TYPE_CHECKING:
    from hpc.services.phase import ReplicaView, Service


def phases(one: Service) -> str:
    """Return the number of replicas in each phase, such as ``2 READY, 1 QUEUED``."""
    counts = Counter(replica.phase for replica in one.replicas)
    return ", ".join(f"{counts[phase]} {phase.value}" for phase in Phase if counts[phase])


def describe(replica: ReplicaView) -> str:
    """Return a replica's phase, node and reason in a line."""
    where = f" on {replica.endpoint.host}" if replica.endpoint else ""
    why = f" ({replica.note})" if replica.note else ""
    return f"{replica.phase.value}{where}{why}"


def as_dict(found: Service) -> dict[str, Any]:
    """Return a service for JSON output, without secrets."""
    return {
        "name": found.spec.name,
        "ready": found.ready,
        "spec": records.encode(found.spec),
        "replicas": [
            {
                "replica": r.number,
                "phase": r.phase.value,
                "note": r.note,
                "job": records.encode(r.job) if r.job else None,
                "status": records.encode(r.status),
                "endpoint": records.encode(r.endpoint) if r.endpoint else None,
            }
            for r in found.replicas
        ],
    }
