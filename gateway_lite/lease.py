"""A place at a replica, and the wait for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Collection

    from gateway_lite.seats import Seat

Outcome = Literal["ok", "failed", "unreachable", "left"]


class Owner(Protocol):
    """Who gave the place."""

    clock: Callable[[], float]

    def wake(self, model: str) -> None:
        """Give what is free to those that wait."""


class Work:
    """What a request weighs.

    Args:
        tokens: estimate of those that it takes.
        prefix: how it begins; empty where that does not matter.
    """

    __slots__ = ("prefix", "tokens")

    def __init__(self, tokens: int = 1, prefix: bytes = b"") -> None:
        self.tokens = tokens
        self.prefix = prefix


class Lease:
    """A place at a replica, held until it is released.

    Attributes:
        replica: who has it.
        on_stall: called when the replica stops moving while this is held; may be None.
    """

    __slots__ = ("_balancer", "_model", "_seat", "_tokens", "on_stall", "replica")

    def __init__(self, balancer: Owner, model: str, seat: Seat, tokens: int) -> None:
        self._balancer: Owner | None = balancer
        self._model = model
        self._seat = seat
        self._tokens = tokens
        self.replica = seat.replica
        self.on_stall: Callable[[], None] | None = None
        seat.take(self, tokens)

    def moved(self) -> None:
        """Note that bytes came."""
        self._seat.moves += 1

    def release(self, outcome: Outcome) -> None:
        """Give it back, and say how that went; the second time does nothing."""
        balancer, self._balancer = self._balancer, None
        if balancer is None:
            return
        seat = self._seat
        seat.give(self, self._tokens)
        if outcome == "ok":
            seat.succeeded()
        elif outcome == "left":
            seat.undecided()
        else:
            seat.failed(balancer.clock(), unreachable=outcome == "unreachable")
        balancer.wake(self._model)


class Waiting:
    """A request that waits for a slot."""

    __slots__ = ("_queue", "done", "since", "tried", "work")

    def __init__(
        self,
        queue: deque[Waiting],
        work: Work,
        tried: Collection[str],
        done: Callable[[Lease | Exception], None],
        since: float,
    ) -> None:
        self._queue = queue
        self.work = work
        self.tried = tried
        self.done = done
        self.since = since
        queue.append(self)

    def cancel(self) -> None:
        """Wait no more."""
        if self in self._queue:
            self._queue.remove(self)
