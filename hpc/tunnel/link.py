"""What both transports can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket

    from hpc.process import Result

LOOPBACK = "127.0.0.1"
CONNECT_S = 15.0
"""Seconds that a login node has to answer."""
ALIVE_S = 5
"""Seconds between two keep-alives; a connection that misses three is taken for dead."""
ALIVE_COUNT = 3


@dataclass(frozen=True, slots=True)
class Way:
    """How connections get from the login node to the gateway.

    Attributes:
        to: host and port as the login node sees them, or the path of a Unix socket there.
        relay: command line that carries one connection on its standard input and output, for
            servers that forward nothing; None lets the server forward.
    """

    to: tuple[str, int] | str
    relay: str | None = None

    def __str__(self) -> str:
        place = self.to if isinstance(self.to, str) else f"{self.to[0]}:{self.to[1]}"
        return f"{place} through a relay" if self.relay else place


class Link(Protocol):
    """An authenticated connection to a login node whose host key was verified.

    Attributes:
        owns_ports: whether ``forward`` is to be had; without it, somebody else listens here and
            hands each connection to ``carry``.
    """

    owns_ports: bool

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a command line there and return what it said, whatever its exit status.

        Raises:
            Unreachable: the connection is gone; a command that does not end in time ends it.
        """

    def forward(self, port: int, way: Way) -> None:
        """Let a port of 127.0.0.1 here lead there.

        Raises:
            TunnelError: the port is not to be had.
        """

    def unforward(self, port: int, way: Way) -> None:
        """Let go of a port; connections that stand go on."""

    def carry(self, sock: socket.socket, way: Way) -> bool:
        """Carry one connection to its end, then close it.

        Returns:
            False where it could not begin: nothing was read from it, and it is still open.
        """

    def alive(self) -> bool:
        """Tell whether the connection still stands, without a round trip."""

    def wait(self, timeout_s: float) -> None:
        """Return when the connection has ended, or after so many seconds."""

    def close(self) -> None:
        """End the connection, its forwarded ports and every process behind it."""
