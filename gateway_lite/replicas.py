"""The upstreams of a model, as the balancer and the data path see them."""

from __future__ import annotations

from dataclasses import dataclass, field


class NoReplicaError(Exception):
    """A model has no replica that takes requests."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One upstream that takes requests now.

    Attributes:
        key: its identity; a job that was restarted is another one.
        name: what people call it.
        url: base address, without a trailing slash.
        secret: bearer token that it asks for, or None.
        slots: requests it serves at once, or None where it batches.
    """

    key: str
    name: str
    url: str
    secret: str | None = field(default=None, repr=False)
    slots: int | None = None
