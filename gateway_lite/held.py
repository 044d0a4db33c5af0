"""What a request holds of others while it is served, and how it gives that back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway_lite.desk import Place, Waiting
    from gateway_lite.lease import Outcome
    from gateway_lite.link import Link
    from gateway_lite.upstream import Dial


class Held(msgspec.Struct, eq=False):
    """A place at a replica, the connection to it, or the wait for a place.

    Attributes:
        lease: the place.
        link: the connection.
        waiting: the wait.
    """

    lease: Place | None = None
    link: Link | Dial | None = None
    waiting: Waiting | None = None

    def abort(self) -> None:
        """End the wait and the connection; who is at its other end stops to work."""
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None
        if self.link is not None:
            self.link.abort()

    def pause(self) -> None:
        """Let the replica wait."""
        if self.link is not None:
            self.link.pause()

    def resume(self) -> None:
        """Let the replica go on."""
        if self.link is not None:
            self.link.resume()

    def release(self, outcome: Outcome) -> None:
        """Give the place back."""
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release(outcome)
