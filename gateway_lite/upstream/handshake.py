"""The handshake of a new connection to a replica: both sides prove that they hold its secret.

Four messages, before any prompt, and the secret itself is never sent:

    gateway -> replica   GET /handshake    challenge of the gateway
    replica -> gateway   200               challenge of the replica, proof of the replica
    gateway -> replica   GET /handshake    proof of the gateway
    replica -> gateway   200               from here on, requests

A far end without the right proof gets no further byte. Each challenge is for one connection and
one proof.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from hpc import peer_proof
from hpc.peer_proof import CHALLENGE, PROOF, GatewayHandshake, NotProved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

P = TypeVar("P", bound=asyncio.Protocol)


class ReplicaHandshake:
    """The replica's part on one connection, without input or output.

    Args:
        secret: the replica's secret.
        host: address of the connection's own end.
        port: the replica's TCP port.

    Attributes:
        state: what the gateway has to send: its challenge, its proof, or nothing more.
    """

    def __init__(self, secret: bytes, host: str, port: int) -> None:
        self._secret, self._host, self._port = secret, peer_proof.plain(host), port
        self._theirs = self._own = ""
        self.state: Literal["challenge", "proof", "done", "refused"] = "challenge"

    def answer(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Take the headers of one message; return the answer's header lines, None as a refusal.

        A refusal is final: whatever the connection sends afterwards is refused too.
        """
        before, self.state = self.state, "refused"
        if before == "challenge":
            self._theirs = headers.get(CHALLENGE.encode(), b"").decode("latin-1")
            return self._prove() if peer_proof.is_challenge(self._theirs) else None
        proof = headers.get(PROOF.encode(), b"").decode("latin-1")
        said = (self._own, self._theirs, self._host)
        if before != "proof" or not peer_proof.holds(
            self._secret, proof, "client", self._port, *said
        ):
            return None
        self.state = "done"
        return b""

    def _prove(self) -> bytes:
        self._own, self.state = peer_proof.new_challenge(), "proof"
        said = (self._theirs, self._own, self._host)
        proof = peer_proof.prove(self._secret, "replica", self._port, *said)
        return f"{CHALLENGE}: {self._own}\r\n{PROOF}: {proof}\r\n".encode()


class HandshakeProtocol(asyncio.Protocol, Generic[P]):
    """A new connection until the handshake's end, which hands the connection on.

    Args:
        secret: the replica's secret.
        successor: makes the protocol of the proved connection.

    Attributes:
        proved: future with the successor, or with the error.
    """

    def __init__(self, secret: str, successor: Callable[[], P]) -> None:
        self._secret, self._successor = secret, successor
        self._handshake: GatewayHandshake | None = None
        self.proved: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the challenge; the proof has to fit this connection's own far end."""
        self.transport = transport
        host, port = transport.get_extra_info("peername")[:2]
        self._handshake = GatewayHandshake(self._secret, host, port)
        self.transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, and hand the connection on at its end."""
        if self.proved.done() or self._handshake is None:
            return
        try:
            said = self._handshake.feed(data)
        except NotProved as error:
            self._refuse(error)
            return
        if said:
            self.transport.write(said)
        if self._handshake.done:
            # Here and not in the waiting task: no byte may arrive at this protocol in between.
            successor = self._successor()
            self.transport.set_protocol(successor)
            successor.connection_made(self.transport)
            self.proved.set_result(successor)

    def connection_lost(self, exc: Exception | None) -> None:
        """Record the far end's refusal to answer."""
        del exc
        if not self.proved.done():
            self._refuse(NotProved("the far end closed the connection before its proof"))

    def _refuse(self, error: NotProved) -> None:
        self.proved.set_exception(error)
        self.transport.abort()
