"""What a gateway may wait for and hold; one frozen value, handed down."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of one gateway or sidecar.

    Attributes:
        connect_s: seconds to open a connection to a replica.
        idle_s: seconds without a byte from a replica, headers included.
        pool_idle_s: seconds an unused upstream connection is kept; the engines close theirs at 5.
        client_idle_s: seconds an unused client connection is kept.
        body_bytes: largest request, and largest answer that is not a stream.
        queue_length: requests per model that wait for a free slot.
        queue_s: seconds that one of them waits.
        stall_s: seconds without any movement after which a replica with work counts as stuck.
        drain_s: seconds that streams have to finish after SIGTERM.
        scan_s: seconds between two readings of the state directory.
    """

    connect_s: float = 5.0
    idle_s: float = 600.0
    pool_idle_s: float = 3.0
    client_idle_s: float = 75.0
    body_bytes: int = 64 * MIB
    queue_length: int = 64
    queue_s: float = 300.0
    stall_s: float = 180.0
    drain_s: float = 30.0
    scan_s: float = 2.0
