"""What both transports can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hpc.process import Result

LOOPBACK = "127.0.0.1"
CONNECT_S = 15
"""Seconds that a login node has to answer."""
ALIVE_S = 5
"""Seconds between two keep-alives; a connection that misses three is taken for dead."""
ALIVE_COUNT = 3


class Link(Protocol):
    """An authenticated connection to a login node whose host key was verified."""

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a command line there and return what it said, whatever its exit status.

        Raises:
            Unreachable: the connection is gone; a command that does not end in time ends it.
        """

    def forward(self, port: int, to: tuple[str, int]) -> None:
        """Let a port of 127.0.0.1 here lead to a host and port as the login node sees them.

        Raises:
            TunnelError: the port is not to be had.
        """

    def alive(self) -> bool:
        """Tell whether the connection still stands, without a round trip."""

    def close(self) -> None:
        """End the connection, its forwarded ports and every process behind it."""
