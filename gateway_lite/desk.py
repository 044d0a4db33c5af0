"""What a request asks of its server; a gateway and a sidecar each have a desk of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway_lite import errors, reply
from gateway_lite.outlet import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.errors import ApiError
    from gateway_lite.exchange import Exchange
    from gateway_lite.gate import Gate
    from gateway_lite.link import Link
    from gateway_lite.outbox import Outbox
    from gateway_lite.place import Outcome
    from gateway_lite.replicas import Replica
    from gateway_lite.settings import Settings
    from gateway_lite.upstream import Dial


class Client(Connection, Protocol):
    """The connection that a request came on."""

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request, or close."""


class Place(Protocol):
    """A place at a replica, held until it is released."""

    replica: Replica
    on_stall: Callable[[], None] | None

    def moved(self) -> None:
        """Note that bytes came."""

    def release(self, outcome: Outcome) -> None:
        """Give it back; the second time does nothing."""


class Waiting(Protocol):
    """A wait for a place."""

    def cancel(self) -> None:
        """Wait no more."""


class Desk(Protocol):
    """Decides on requests; nothing here waits."""

    gate: Gate
    outbox: Outbox
    settings: Settings

    def check(self, exchange: Exchange) -> None:
        """Refuse by the head alone what can be refused; raises ApiError."""

    def admit(self, exchange: Exchange) -> None:
        """Refuse or prepare a request that is complete; raises ApiError."""

    def place(self, exchange: Exchange) -> Place | None:
        """Return a place at a replica, None where all slots are taken; raises ApiError."""

    def wait(self, exchange: Exchange, done: Callable[[Place | Exception], None]) -> Waiting:
        """Wait for a place; raises ApiError."""

    def send(self, exchange: Exchange, replica: Replica, *, fresh: bool) -> Link | Dial:
        """Send it to a replica; the exchange takes the answer."""

    def another(self, exchange: Exchange, *, worked: bool, elsewhere: bool) -> bool:
        """Tell whether one more attempt is allowed.

        Args:
            exchange: the request.
            worked: the replica that failed may have worked on it.
            elsewhere: only another replica makes sense.
        """

    def renew(self, exchange: Exchange, replica: Replica) -> None:
        """Read a secret again that was refused, and let the request try again; raises ApiError."""

    def refusal(self, error: ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return the header lines and the body of an error of ours."""

    def lines(self, exchange: Exchange) -> bytes:
        """Return our own header lines of an answer."""

    def finished(self, exchange: Exchange) -> None:
        """Note what became of it."""


def refusal(error: errors.ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
    """Return the header lines and the body of an error."""
    headers = [pair for pair in error.headers if pair[0] != b"connection"]
    name = (b"x-request-id", exchange.record.name.encode())
    return reply.lines([(b"content-type", reply.JSON), *headers, name]), error.body()
