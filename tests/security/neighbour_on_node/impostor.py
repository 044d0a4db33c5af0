"""A neighbour that listens at a port which is not his, and keeps all bytes that he gets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORGED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 22\r\n\r\n"
    b'{"object": "forged  "}'
)
HEAD = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"content-length: 0\r\n\r\n"
CHALLENGE, PROOF = b"x-hpc-serve-challenge: ", b"x-hpc-serve-proof: "
PIECE = b"x" * 65536
ENOUGH = 64 * 2**20
"""Bytes of an endless answer after which the far end is taken to read without a bound."""


class Impostor:
    """A listener at a given port.

    Args:
        port: the port of a replica that is gone.
        script: what is done with each connection.
        host: address to listen at.
    """

    def __init__(self, port: int, script: Callable[[Ear], None], host: str = "127.0.0.1") -> None:
        self.script = script
        self.ears: list[Ear] = []
        self._sock = socket.create_server((host, port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            ear = Ear(connection)
            self.ears.append(ear)
            threading.Thread(target=self._play, args=(ear,), daemon=True).start()

    def _play(self, ear: Ear) -> None:
        with ear.connection, contextlib.suppress(OSError):
            self.script(ear)

    @property
    def heard(self) -> bytes:
        """All bytes of all connections."""
        return b"".join(ear.heard for ear in self.ears)

    def close(self) -> None:
        """Listen no longer."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(PATIENCE_S)
        for ear in self.ears:
            with contextlib.suppress(OSError):
                ear.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def impostor(
    port: int, script: Callable[[Ear], None], host: str = "127.0.0.1"
) -> Iterator[Impostor]:
    """Listen at a port for the duration of the context."""
    found = Impostor(port, script, host)
    try:
        yield found
    finally:
        found.close()


class Ear:
    """One connection, with what came over it and what was sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.heard = b""
        self.sent = 0

    def request(self) -> bytes:
        """Take what comes at once, of a gateway a whole request; b"" at the end."""
        found = self.connection.recv(65536)
        self.heard += found
        return found

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(data)
        self.sent += len(data)

    def drain(self) -> None:
        """Take whatever still comes."""
        while more := self.connection.recv(65536):
            self.heard += more


def challenge(request: bytes) -> bytes:
    """Return the challenge of a request."""
    return request.partition(CHALLENGE)[2].partition(b"\r\n")[0]


def answers(*parts: bytes) -> Callable[[Ear], None]:
    """Return a script that answers each request with the same bytes, then listens on."""

    def script(ear: Ear) -> None:
        while ear.request():
            ear.send(b"".join(parts))

    return script


def _silent(ear: Ear) -> None:
    ear.drain()


def _deaf(ear: Ear) -> None:
    time.sleep(20)
    ear.drain()


def _closes(ear: Ear) -> None:
    ear.request()


def _slow(ear: Ear) -> None:
    ear.request()
    for byte in HEAD * 20:
        ear.send(bytes([byte]))
        time.sleep(0.4)


def _endless(ear: Ear, start: bytes) -> None:
    ear.request()
    ear.send(start)
    while ear.sent < ENOUGH:
        ear.send(PIECE)


def _eager(ear: Ear) -> None:
    """Say everything before being asked."""
    ear.send(HEAD + CHALLENGE + b"0" * 64 + b"\r\n" + PROOF + b"0" * 64 + b"\r\n" + EMPTY + FORGED)
    ear.drain()


def _mirror(ear: Ear) -> None:
    """Give back the gateway's own challenge as challenge and as proof."""
    while request := ear.request():
        own = challenge(request)
        ear.send(HEAD + CHALLENGE + own + b"\r\n" + PROOF + own + b"\r\n" + EMPTY)


GUESS = HEAD + CHALLENGE + b"0" * 64 + b"\r\n" + PROOF + b"0" * 64 + b"\r\n"
SCRIPTS: dict[str, Callable[[Ear], None]] = {
    "forges answers": answers(FORGED),
    "answers 200 without proof": answers(HEAD + EMPTY),
    "guesses": answers(GUESS + EMPTY),
    "guesses with a body": answers(GUESS + b"content-length: 3\r\n\r\nyes"),
    "adds an answer": answers(GUESS + EMPTY + FORGED),
    "has no challenge": answers(HEAD + PROOF + b"0" * 64 + b"\r\n" + EMPTY),
    "has proofs of zero length": answers(HEAD + CHALLENGE + b"\r\n" + PROOF + b"\r\n" + EMPTY),
    "continues": answers(b"HTTP/1.1 100 Continue\r\n\r\n", FORGED),
    "redirects": answers(b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\n" + EMPTY),
    "says 401": answers(b"HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\n" + EMPTY),
    "says 503": answers(b"HTTP/1.1 503 Busy\r\n" + EMPTY),
    "is no HTTP": answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "has zeros": answers(b"\0" * 5000),
    "mirrors": _mirror,
    "is eager": _eager,
    "is silent": _silent,
    "does not read": _deaf,
    "closes": _closes,
    "is slow": _slow,
    "ends never": lambda ear: _endless(ear, b""),
    "ends never in a header": lambda ear: _endless(ear, HEAD + b"a: "),
    "ends never in the body": lambda ear: _endless(ear, GUESS + b"content-length: 99999\r\n\r\n"),
}
