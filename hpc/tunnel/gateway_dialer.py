"""Connections to the gateway, each proved before the first byte of a client goes out.

The far end of a route is an address on a machine of many users. After a gateway's end any of them
can listen there, so that a new connection may lead to anybody until it has proved itself.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc.peer_proof import Handshake
from hpc.tunnel import stream_copy
from hpc.tunnel.transport import CONNECT_S

if TYPE_CHECKING:
    from hpc.tunnel.stream_copy import Stream
    from hpc.tunnel.transport import Route, Transport


@dataclass(frozen=True, slots=True)
class GatewayDialer:
    """The way to one start of a gateway; the secret stays out of the repr.

    Attributes:
        link: the connection to the login node.
        way: the route to the gateway.
        secret: the secret by which the gateway proves itself.
    """

    link: Transport
    way: Route
    secret: str = field(repr=False)

    def open(self, timeout_s: float = CONNECT_S) -> Stream:
        """Open a connection, whose far end has proved to be the gateway.

        Args:
            timeout_s: time limit in seconds.

        Raises:
            OSError: no connection came; TimeoutError if no answer came in time.
            NotProved: another program answered.
        """
        deadline = time.monotonic() + timeout_s
        stream = self.link.dial(self.way, timeout_s)
        try:
            self.prove(stream, max(deadline - time.monotonic(), 0.0))
        except BaseException:
            with contextlib.suppress(OSError, EOFError):
                stream.close()
            raise
        return stream

    def prove(self, stream: Stream, timeout_s: float) -> None:
        """Let the far end of an idle connection prove itself, with a new challenge.

        Raises:
            OSError: the connection ended; TimeoutError if no answer came in time.
            NotProved: another program answered.
        """
        deadline = time.monotonic() + timeout_s
        # A Unix socket has no address, behind a relay too.
        place = None if isinstance(self.way.to, str) else self.way.to
        handshake = Handshake(self.secret.encode(), place)
        stream.sendall(handshake.request)
        while not handshake.feed(stream_copy.receive(stream, deadline)):
            pass
        stream.settimeout(None)
