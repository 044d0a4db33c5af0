"""The replica lease, upstream connection or queue entry that a request holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway_lite.request.desk import Place, Waiting
    from gateway_lite.routing.lease import Outcome
    from gateway_lite.upstream.connection import Link
    from gateway_lite.upstream.pool import Dial


class Held(msgspec.Struct, eq=False):
    """The resources of a request, and their release.

    Attributes:
        lease: the lease at a replica.
        link: the upstream connection.
        waiting: the queue entry.
    """

    lease: Place | None = None
    link: Link | Dial | None = None
    waiting: Waiting | None = None

    def abort(self) -> None:
        """Leave the queue and close the connection, by which the engine cancels its work."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.link is not None:
            self.link.abort()

    def pause(self) -> None:
        """Stop reading from the replica."""
        if self.link is not None:
            self.link.pause()

    def resume(self) -> None:
        """Read from the replica again."""
        if self.link is not None:
            self.link.resume()

    def release(self, outcome: Outcome) -> None:
        """Release the lease."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(outcome)
