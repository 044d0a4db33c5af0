"""The health probe: a request to the gateway through the tunnel, from end to end."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hpc.tunnel.transport import Route, Transport

Outcome = Literal["ok", "refused", "silent"]


class HealthProbe:
    """A connection to the gateway for all probes.

    Args:
        link: the connection to the login node.
        way: the route to the gateway.
    """

    def __init__(self, link: Transport, way: Route) -> None:
        self._link = link
        self._way = way
        self._http: http.client.HTTPConnection | None = None

    def look(self, timeout_s: float) -> Outcome:
        """Return whether the gateway answered, the route is closed, or no answer came in time.

        A connection that the gateway closed in the meantime is reopened once.
        """
        fresh = self._http is None
        outcome = self._ask(timeout_s)
        if outcome == "refused" and not fresh:
            outcome = self._ask(timeout_s)
        return outcome

    def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _ask(self, timeout_s: float) -> Outcome:
        line = self._http or self._open()
        try:
            if line.sock is not None:
                line.sock.settimeout(timeout_s)
            line.request("GET", "/healthz")
            answer = line.getresponse()
            answer.read()
        except TimeoutError:
            self.close()
            return "silent"
        except (OSError, http.client.HTTPException):
            self.close()
            return "refused"
        if line.sock is None:
            self.close()
        return "ok"

    def _open(self) -> http.client.HTTPConnection:
        ours, theirs = socket.socketpair()
        name = "hpc-probe"
        threading.Thread(target=self._carry, args=(theirs,), name=name, daemon=True).start()
        self._http = http.client.HTTPConnection("gateway")
        # Else http.client would open a TCP connection to a host "gateway" once ours is closed.
        self._http.auto_open = 0
        self._http.sock = ours
        return self._http

    def _carry(self, sock: socket.socket) -> None:
        if not self._link.carry(sock, self._way):
            with contextlib.suppress(OSError):
                sock.close()
