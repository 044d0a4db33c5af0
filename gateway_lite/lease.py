"""A place at a replica, and the wait for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection

    from gateway_lite.replicas import Replica
    from gateway_lite.seats import Seat

Outcome = Literal["ok", "failed", "unreachable", "left"]


class Owner(Protocol):
    """Who gave the place."""

    clock: Callable[[], float]

    def wake(self, model: str) -> None:
        """Give what is free to those that wait."""

    def tell(self, model: str) -> None:
        """Let other processes know who waits, as that has changed."""


class Work(msgspec.Struct, eq=False, gc=False):
    """What a request weighs.

    Attributes:
        tokens: estimate of those that it takes.
        prefix: how it begins as many others do; empty where that does not matter.
        chat: how it begins as those of its conversation do alone.
    """

    tokens: int = 1
    prefix: bytes = b""
    chat: bytes = b""


class Lease(msgspec.Struct, eq=False):
    """A place at a replica, held until it is released.

    Attributes:
        owner: who gave it; None once it was given back.
        model: whose replica.
        seat: where it is.
        tokens: what the request weighs.
        replica: who has it.
        on_stall: called when the replica stops moving while this is held; may be None.
    """

    owner: Owner | None
    model: str
    seat: Seat
    tokens: int
    replica: Replica
    on_stall: Callable[[], None] | None = None

    def moved(self) -> None:
        """Note that bytes came."""
        self.seat.moves += 1

    def release(self, outcome: Outcome) -> None:
        """Give it back, and say how that went; the second time does nothing."""
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
        owner.wake(self.model)


class Waiting:
    """A request that waits for a slot."""

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
        """Wait no more."""
        if self in self._queue:
            self._queue.remove(self)
            self._owner.tell(self._model)
