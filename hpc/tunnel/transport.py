"""The interface of both transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hpc.processes.programs import Result
    from hpc.tunnel.stream_copy import Stream

LOOPBACK = "127.0.0.1"
CONNECT_S = 15.0
"""Seconds for a login node to answer."""
ALIVE_S = 5
"""Seconds between two keep-alives; a connection that misses three counts as dead."""
ALIVE_COUNT = 3


@dataclass(frozen=True, slots=True)
class Route:
    """The route of connections from the login node to the gateway.

    Attributes:
        to: host and port as the login node sees them, or the path of a Unix socket there.
        relay: command line that relays one connection on its standard input and output, for
            servers that forbid forwarding; None lets the server forward.
    """

    to: tuple[str, int] | str
    relay: str | None = None

    def __str__(self) -> str:
        place = self.to if isinstance(self.to, str) else f"{self.to[0]}:{self.to[1]}"
        return f"{place} through a relay" if self.relay else place


class Transport(Protocol):
    """An authenticated connection to a login node with a verified host key.

    Attributes:
        notes: sentences for the user on a configuration that is not followed wholly.
    """

    notes: tuple[str, ...]

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a remote command line and return its output, whatever the exit status.

        Raises:
            Unreachable: the connection is gone; a command beyond its time limit ends it too.
        """

    def dial(self, way: Route, timeout_s: float) -> Stream:
        """Open a connection along a route, to a far end that is not proved yet.

        A route that the login node refuses may show as the end of an open connection only.

        Raises:
            OSError: no connection came; TimeoutError if no answer came in time.
        """

    def alive(self) -> bool:
        """Return whether the connection still stands, without a round trip."""

    def wait(self, timeout_s: float) -> None:
        """Wait for the connection's end, at most a number of seconds."""

    def close(self) -> None:
        """End the connection, its channels and every process behind it."""
