"""The interface of request handlers; gateway and sidecar each have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway_lite.request.outlet import Connection
from gateway_lite.wire import response_head

if TYPE_CHECKING:
    from gateway_lite import errors
    from collections.abc import Callable

    from gateway_lite.catalog.replica import Replica
    from gateway_lite.errors import ApiError
    from gateway_lite.in_flight import Gate
    from gateway_lite.request.exchange import Exchange
    from gateway_lite.routing.balancer import Outcome
    from gateway_lite.settings import Settings
    from gateway_lite.upstream.connection import Link
    from gateway_lite.upstream.pool import Dial
    from gateway_lite.wire.write_batching import Outbox


class Client(Connection, Protocol):
    """The connection of a client."""

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request, or close the connection."""


class Place(Protocol):
    """A lease of a slot at a replica, held until its release."""

    replica: Replica
    on_stall: Callable[[], None] | None

    def moved(self) -> None:
        """Record that bytes arrived."""

    def release(self, outcome: Outcome) -> None:
        """Release the lease; a second release does nothing."""


class Waiting(Protocol):
    """A queue entry for a slot."""

    def cancel(self) -> None:
        """Leave the queue."""


class Desk(Protocol):
    """A request handler; no method waits."""

    gate: Gate
    outbox: Outbox
    settings: Settings

    def check(self, exchange: Exchange) -> None:
        """Refuse a request by its head, if possible; raises ApiError."""

    def admit(self, exchange: Exchange) -> None:
        """Refuse or prepare a complete request; raises ApiError."""

    def place(self, exchange: Exchange) -> Place | None:
        """Return a lease at a replica, or None if all slots are taken; raises ApiError."""

    def wait(self, exchange: Exchange, done: Callable[[Place | Exception], None]) -> Waiting:
        """Queue a request for a slot; raises ApiError."""

    def send(self, exchange: Exchange, replica: Replica, *, fresh: bool) -> Link | Dial:
        """Send the request to a replica; the exchange receives the answer."""

    def another(self, exchange: Exchange, *, worked: bool, elsewhere: bool) -> bool:
        """Return whether one more attempt is allowed.

        Args:
            exchange: the request.
            worked: the failed replica may have worked on the request.
            elsewhere: only another replica makes sense.
        """

    def renew(self, exchange: Exchange, replica: Replica) -> None:
        """Read a refused secret again, and let the request try again; raises ApiError."""

    def refusal(self, error: ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return the header lines and the body of a gateway error."""

    def lines(self, exchange: Exchange) -> bytes:
        """Return the handler's own header lines of an answer."""

    def finished(self, exchange: Exchange) -> None:
        """Record the end of a request."""


def refusal(error: errors.ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
    """Return the header lines and the body of an error in OpenAI's form."""
    headers = [pair for pair in error.headers if pair[0] != b"connection"]
    name = (b"x-request-id", exchange.record.name.encode())
    return response_head.lines(
        [(b"content-type", response_head.JSON), *headers, name]
    ), error.body()
