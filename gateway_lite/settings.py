"""The timeouts and bounds of a gateway, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The timeouts and bounds of one gateway or sidecar.

    Attributes:
        connect_s: seconds to open a connection to a replica.
        next_host_s: seconds after which the next address of a replica is tried beside the last.
        idle_s: seconds without a byte from a replica, headers included.
        pool_idle_s: seconds that an unused upstream connection is kept; engines close theirs after
            5.
        client_idle_s: seconds that an unused client connection is kept.
        body_bytes: bytes of the largest request at a sidecar, and of the largest answer other than
            a stream. At a gateway, models.yaml bounds requests.
        queue_length: requests per model that may wait for a free slot.
        queue_s: longest seconds in the queue.
        stall_s: seconds without progress after which a replica with requests counts as stalled.
        drain_s: seconds for streams to finish after SIGTERM.
        scan_s: seconds between two reads of the state directory.
    """

    connect_s: float = 5.0
    next_host_s: float = 0.25
    idle_s: float = 600.0
    pool_idle_s: float = 3.0
    client_idle_s: float = 75.0
    body_bytes: int = 64 * MIB
    queue_length: int = 64
    queue_s: float = 300.0
    stall_s: float = 180.0
    drain_s: float = 30.0
    scan_s: float = 2.0
