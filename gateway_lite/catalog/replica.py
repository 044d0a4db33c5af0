"""The upstreams of a model, as the balancer and the data path see them."""

from __future__ import annotations

from dataclasses import dataclass, field


class NoReplicaError(Exception):
    """A model has no replica that takes requests."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An upstream that takes requests now.

    Attributes:
        key: identity of the replica; a restarted job has a new key.
        name: display name.
        url: base address, without a trailing slash.
        secret: bearer token that the upstream requires, or None.
        slots: requests that the replica serves at once, or None with continuous batching.
    """

    key: str
    name: str
    url: str
    secret: str | None = field(default=None, repr=False)
    slots: int | None = None
