"""The health probe: a challenge to the gateway through the tunnel, from end to end."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal

from hpc.peer_proof import NotProved

if TYPE_CHECKING:
    from hpc.tunnel.gateway_dialer import GatewayDialer
    from hpc.tunnel.stream_copy import Stream

Outcome = Literal["ok", "refused", "silent", "unproved"]


class HealthProbe:
    """A connection to the gateway for all probes.

    Args:
        dialer: the way to the gateway.
    """

    def __init__(self, dialer: GatewayDialer) -> None:
        self._dialer = dialer
        self._stream: Stream | None = None

    def look(self, timeout_s: float) -> Outcome:
        """Return how the gateway answered a new challenge.

        A connection that ended in the meantime is reopened once.

        Returns:
            "ok" for a proof, "refused" for a closed route, "silent" for no answer in time,
            "unproved" for the answer of another program.
        """
        if self._stream is not None:
            outcome = self._ask(timeout_s)
            if outcome in ("ok", "silent"):
                return outcome
        return self._ask(timeout_s)

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            with contextlib.suppress(OSError, EOFError):
                self._stream.close()
            self._stream = None

    def _ask(self, timeout_s: float) -> Outcome:
        try:
            if self._stream is None:
                self._stream = self._dialer.open(timeout_s)
            else:
                self._dialer.prove(self._stream, timeout_s)
        except TimeoutError:
            self.close()
            return "silent"
        except OSError:
            self.close()
            return "refused"
        except NotProved:
            self.close()
            return "unproved"
        return "ok"
