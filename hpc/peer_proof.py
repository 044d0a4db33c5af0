"""Proof of a peer's identity: a challenge that only a holder of a secret can answer.

An address in a record says nothing about the process that listens there today: after a crash any
user of the machine can take the port. So no key, secret or prompt goes over a new connection before
its far end has proved that it holds the secret of its record, which lies in the state directory of
mode 0700. The proof covers one connection: to take that over, an attacker must be root.

A proof is an HMAC-SHA-256 over role, port, challenges and the address of the listening end. The
role keeps a proof of one side from passing as the other's; address and port keep the process at one
place from answering for another, such as a neighbour at the same port of another machine of a name.
Secrets are new at each start: the successor of a process cannot be made to answer for it.

Source: challenge-response as in ISO/IEC 9798-4, mechanism 2 (one side) and 4 (both sides).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import ssl
from http import HTTPStatus
from typing import Literal

CHALLENGE = "x-hpc-serve-challenge"
"""Header with a challenge: 64 hexadecimal digits."""
PROOF = "x-hpc-serve-proof"
"""Header with a proof: 64 hexadecimal digits."""
HANDSHAKE_PATH = "/handshake"
"""Path of a replica's handshake, in which both sides prove themselves."""
MOST_BYTES = 16 * 1024
"""Longest answer to a challenge in bytes; the far end is a stranger until then."""

Role = Literal["gateway", "replica", "client"]
Place = tuple[str, int] | None
"""Address and port at the gateway's end of a connection; None for a Unix socket."""
_DIGITS = re.compile(r"[0-9a-f]{64}")
_STATUS = re.compile(r"HTTP/1\.1 ([0-9]{3})(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,5}")


class NotProved(Exception):  # noqa: N818 - a refusal, as in NotFound
    """A peer did not prove that it holds the expected secret."""


def new_secret() -> str:
    """Return a secret of 32 random bytes as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def is_secret(text: str) -> bool:
    """Return whether a text has the form of a secret; a shorter one could be guessed."""
    return _DIGITS.fullmatch(text) is not None


def new_challenge() -> str:
    """Return a challenge that was never used before."""
    return secrets.token_hex(32)


def is_challenge(text: str) -> bool:
    """Return whether a text has the form of a challenge; others are not answered."""
    return _DIGITS.fullmatch(text) is not None


def prove(secret: bytes, role: Role, port: int, *challenges: str) -> str:
    """Return the proof of one side of a connection.

    Args:
        secret: the secret that both sides hold.
        role: the side that proves itself.
        port: the TCP port of the proving listener, 0 for a Unix socket.
        challenges: the other side's challenge first, then one's own where both sides prove.
    """
    said = "\0".join(("hpc-serve", role, str(port), *challenges))
    return hmac.new(secret, said.encode(), "sha256").hexdigest()


def holds(secret: bytes, proof: str, role: Role, port: int, *challenges: str) -> bool:
    """Return whether a proof fits; arguments as for ``prove``, compared in constant time."""
    expected = prove(secret, role, port, *challenges)
    return hmac.compare_digest(expected.encode(), proof.encode("utf-8", "replace"))


def prove_gateway(secret: bytes, place: Place, challenge: str) -> str:
    """Return the proof of a gateway for one connection.

    Raises:
        ValueError: the place is a name instead of an address.
    """
    host, port = place or ("", 0)
    return prove(secret, "gateway", port, challenge, plain(host) if place else "")


def plain(address: str) -> str:
    """Return the one spelling of an address, without a zone, IPv4 never as IPv6.

    Raises:
        ValueError: the text is no address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


class Handshake:
    """The client's part of a gateway's proof on one new connection, without input or output.

    The caller sends ``request``, then feeds received bytes until ``feed`` returns True. The
    connection is then idle and usable for requests.

    Args:
        secret: the secret of the gateway's record.
        place: address and port of the connection's far end, None for a Unix socket.

    Raises:
        ValueError: the place is a name instead of an address.
    """

    def __init__(self, secret: bytes, place: Place) -> None:
        self._challenge = new_challenge()
        self._expected = prove_gateway(secret, place, self._challenge)
        self._seen = b""

    @property
    def request(self) -> bytes:
        """The bytes to send: a request without any secret."""
        return (
            f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{CHALLENGE}: {self._challenge}\r\n\r\n"
        ).encode()

    def feed(self, data: bytes) -> bool:
        """Take received bytes; return whether the proof is complete and fits.

        Args:
            data: bytes from the far end; b"" is the end of the connection.

        Raises:
            NotProved: the answer is not a gateway's, or its proof does not fit.
        """
        self._seen += data
        fields = answered(self._seen, ended=not data)
        if fields is None:
            return False
        proof = fields.get(PROOF, "").encode("utf-8", "replace")
        if not hmac.compare_digest(self._expected.encode(), proof):
            raise NotProved("the far end does not hold the gateway's secret")
        return True


class GatewayHandshake:
    """The gateway's part on one connection, without input or output.

    The caller sends ``request``, then feeds received bytes and sends what ``feed`` returns, until
    ``done``.

    Args:
        secret: the replica's secret.
        host: address of the connection's far end, never a name.
        port: the replica's TCP port.

    Attributes:
        done: True once both sides have proved themselves.

    Raises:
        ValueError: the host is a name instead of an address.
    """

    def __init__(self, secret: str, host: str, port: int) -> None:
        self._secret, self._host, self._port = secret.encode(), plain(host), port
        self._challenge = new_challenge()
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
        fields = answered(self._seen, ended=not data or self.done)
        if fields is None:
            return b""
        self._seen = b""
        if self._proved:
            self.done = True
            return b""
        theirs, proof = fields.get(CHALLENGE, ""), fields.get(PROOF, "")
        if not is_challenge(theirs):
            raise NotProved("the far end sent no challenge")
        pair = (self._challenge, theirs)
        if not holds(self._secret, proof, "replica", self._port, *pair, self._host):
            raise WrongSecret
        self._proved = True
        pair = (theirs, self._challenge)
        own = prove(self._secret, "client", self._port, *pair, self._host)
        return _message(PROOF, own)


class WrongSecret(NotProved):
    """A far end answered as a replica does, and does not hold the expected secret."""

    def __init__(self) -> None:
        super().__init__("the far end does not hold the replica's secret")


def _message(name: str, value: str) -> bytes:
    return f"GET {HANDSHAKE_PATH} HTTP/1.1\r\nhost: replica\r\n{name}: {value}\r\n\r\n".encode()


def pinned(certificate: str) -> ssl.SSLContext:
    """Return the TLS context of connections to the only server with a certificate.

    Args:
        certificate: PEM of the server's record.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No other certificate passes, and this one lies in the 0700 state directory: a name in it would
    # prove nothing more.
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


def answered(seen: bytes, *, ended: bool) -> dict[str, str] | None:
    """Return the header fields of a stranger's answer by lower-case name, None before its end.

    Args:
        seen: all bytes of the answer so far.
        ended: the far end sends no further byte.

    Raises:
        NotProved: the answer is not a 200 with a Content-Length, is too long, or is followed by
            further bytes.
    """
    if ended or len(seen) > MOST_BYTES:
        raise NotProved("the far end did not answer the challenge")
    head, end, body = seen.partition(b"\r\n\r\n")
    if not end:
        return None
    fields = _fields(head)
    length = fields.get("content-length", "")
    # More bytes than the body would be taken for the answer to the first request.
    if _LENGTH.fullmatch(length) is None or len(body) > int(length):
        raise NotProved("the far end's answer is malformed")
    return fields if len(body) == int(length) else None


def _fields(head: bytes) -> dict[str, str]:
    first, *lines = head.decode("latin-1").split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or int(status[1]) != HTTPStatus.OK:
        raise NotProved("the far end refused the challenge")
    pairs = (line.partition(":") for line in lines)
    return {name.lower(): value.strip() for name, _, value in pairs}
