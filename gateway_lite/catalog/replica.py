"""The upstreams of a model, as the balancer and the data path see them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_lite.upstream.pool import Peer


class NoReplicaError(Exception):
    """A model has no replica that takes requests."""


@dataclass(frozen=True, slots=True)
class Replica:
    """An upstream that takes requests now.

    Attributes:
        key: identity of the replica; a restarted job has a new key.
        name: display name.
        url: base address, without a trailing slash.
        token: bearer token that a static backend requires, or None.
        secret: secret that a replica of ours proves and that is never sent; None for others.
        certificate: PEM of the certificate of a replica with TLS, or None.
        others: further names and addresses of the replica's node, in the order to try.
        slots: requests that the replica serves at once, or None with continuous batching.
    """

    key: str
    name: str
    url: str
    token: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    slots: int | None = None
    others: tuple[str, ...] = ()

    @property
    def peer(self) -> Peer:
        """The far end of connections to the replica."""
        return Peer(self.url, self.secret, self.certificate, self.others)
