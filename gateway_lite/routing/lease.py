"""The lease of a replica slot, and the queue entry of a waiting request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.routing.replica_state import Seat

Outcome = Literal["ok", "failed", "unreachable", "left"]


class Owner(Protocol):
    """The balancer, as seen by leases."""

    clock: Callable[[], float]

    def wake(self, model: str) -> None:
        """Give free slots to waiting requests."""

    def tell(self, model: str) -> None:
        """Publish a change of the queue to other worker processes."""


class Work(msgspec.Struct, eq=False, gc=False):
    """The cost of one request, and the two keys by which prefix affinity chooses a replica.

    Attributes:
        tokens: estimated tokens of prompt and answer.
        prefix: shared beginning, such as the system prompt; empty if it does not matter.
        chat: beginning that only this conversation has.
    """

    tokens: int = 1
    prefix: bytes = b""
    chat: bytes = b""


class Lease(msgspec.Struct, eq=False):
    """A slot at a replica, held until its release.

    Attributes:
        owner: the balancer; None after the release.
        model: name of the model.
        seat: state of the replica.
        tokens: cost of the request.
        replica: the replica.
        on_stall: called when the replica stalls while the lease is held; may be None.
    """

    owner: Owner | None
    model: str
    seat: Seat
    tokens: int
    replica: Replica
    on_stall: Callable[[], None] | None = None

    def moved(self) -> None:
        """Record that bytes arrived from the replica."""
        self.seat.moves += 1

    def release(self, outcome: Outcome) -> None:
        """Release the lease with an outcome; a second release does nothing."""
        owner, self.owner = self.owner, None
        if owner is None:
            return
        self.on_stall = None
        seat = self.seat
        seat.give(self, self.tokens)
        if outcome == "ok":
            seat.succeeded()
        elif outcome == "left":
            seat.undecided()
        else:
            seat.failed(owner.clock(), unreachable=outcome == "unreachable")
        # Last: the queue must find the slot free and the replica's new state.
        owner.wake(self.model)


class Waiting:
    """The queue entry of a request that waits for a slot."""

    __slots__ = ("_model", "_owner", "_queue", "done", "since", "tried", "work")

    def __init__(
        self,
        owner: Owner,
        model: str,
        queue: deque[Waiting],
        work: Work,
        tried: Collection[str],
        done: Callable[[Lease | Exception], None],
    ) -> None:
        self._owner = owner
        self._model = model
        self._queue = queue
        self.work = work
        self.tried = tried
        self.done = done
        self.since = owner.clock()
        queue.append(self)
        owner.tell(model)

    def cancel(self) -> None:
        """Leave the queue."""
        if self in self._queue:
            self._queue.remove(self)
            self._owner.tell(self._model)
