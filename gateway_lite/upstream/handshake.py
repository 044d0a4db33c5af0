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
from hpc.peer_proof import CHALLENGE, PROOF, NotProved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/handshake"
P = TypeVar("P", bound=asyncio.Protocol)


class GatewayHandshake:
    """The gateway's part on one connection, without input or output.

    The caller sends ``request``, then feeds received bytes and sends what ``feed`` returns, until
    ``done``.

    Args:
        secret: the replica's secret.
        port: the replica's TCP port.

    Attributes:
        done: True once both sides have proved themselves.
    """

    def __init__(self, secret: str, port: int) -> None:
        self._secret, self._port = secret.encode(), port
        self._challenge = peer_proof.new_challenge()
        self._proved = self.done = False
        self._seen = b""
        self.request = _message(CHALLENGE, self._challenge)

    def feed(self, data: bytes) -> bytes:
        """Take received bytes, and return the bytes to send.

        Args:
            data: bytes from the far end; b"" is the end of the connection.

        Raises:
            NotProved: the far end is not the replica.
        """
        self._seen += data
        fields = peer_proof.answered(self._seen, ended=not data or self.done)
        if fields is None:
            return b""
        self._seen = b""
        if self._proved:
            self.done = True
            return b""
        theirs, proof = fields.get(CHALLENGE, ""), fields.get(PROOF, "")
        if not peer_proof.is_challenge(theirs):
            raise NotProved("the far end sent no challenge")
        if not peer_proof.holds(
            self._secret, proof, "replica", self._port, self._challenge, theirs
        ):
            raise WrongSecret
        self._proved = True
        own = peer_proof.prove(self._secret, "client", self._port, theirs, self._challenge)
        return _message(PROOF, own)


class WrongSecret(NotProved):
    """A far end answered as a replica does, and does not hold the expected secret."""

    def __init__(self) -> None:
        super().__init__("the far end does not hold the replica's secret")


def _message(name: str, value: str) -> bytes:
    return f"GET {PATH} HTTP/1.1\r\nhost: replica\r\n{name}: {value}\r\n\r\n".encode()


class ReplicaHandshake:
    """The replica's part on one connection, without input or output.

    Args:
        secret: the replica's secret.
        port: the replica's TCP port.

    Attributes:
        state: what the gateway has to send: its challenge, its proof, or nothing more.
    """

    def __init__(self, secret: bytes, port: int) -> None:
        self._secret, self._port = secret, port
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
        if before != "proof" or not peer_proof.holds(
            self._secret, proof, "client", self._port, self._own, self._theirs
        ):
            return None
        self.state = "done"
        return b""

    def _prove(self) -> bytes:
        self._own, self.state = peer_proof.new_challenge(), "proof"
        proof = peer_proof.prove(self._secret, "replica", self._port, self._theirs, self._own)
        return f"{CHALLENGE}: {self._own}\r\n{PROOF}: {proof}\r\n".encode()


class HandshakeProtocol(asyncio.Protocol, Generic[P]):
    """A new connection until the handshake's end, which hands the connection on.

    Args:
        handshake: the gateway's part.
        successor: makes the protocol of the proved connection.

    Attributes:
        proved: future with the successor, or with the error.
    """

    def __init__(self, handshake: GatewayHandshake, successor: Callable[[], P]) -> None:
        self._handshake, self._successor = handshake, successor
        self.proved: asyncio.Future[P] = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the challenge."""
        self.transport = transport
        self.transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, and hand the connection on at its end."""
        if self.proved.done():
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
