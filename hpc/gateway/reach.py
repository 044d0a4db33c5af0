"""The only way to a gateway: connections whose far end has proved to be the recorded process.

A record says where a gateway listened; who listens there now is unknown until the far end has
answered a challenge. All keys, batch tokens and prompts of this user go over such connections. The
private Unix socket comes first: its folder is closed to other users, and the kernel names the user
at its far end.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc import peer_proof
from hpc.errors import GatewayError
from hpc.peer_proof import Handshake, NotProved
from hpc.processes import by_pid
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import GatewayRecord

URL = "http://localhost"
"""Address in requests to a gateway; its record names the way, at each connection anew."""
PROVE_S = 10.0
"""Seconds for a connection with its proof; an impostor may send a byte now and then for ever."""
ANSWER_S = 30.0
MOST_BYTES = 16 << 20
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - bound addresses, and dialled ones
_CREDENTIALS = struct.Struct("3i")

Way = tuple[str, int] | str
"""A host and TCP port, or the path of a Unix socket."""


class NotReached(GatewayError):  # noqa: N818 - a refusal, as NotProved
    """No connection to a gateway, or none whose far end proved to be that gateway."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a gateway: status, and JSON or None."""

    status: int
    content: Any


def here(root: Path) -> GatewayRecord | None:
    """Return the record of the machine's gateway if its process runs, or None."""
    record = directory.load_gateway(root, socket.gethostname())
    return record if record is not None and is_living(record) else None


def is_living(record: GatewayRecord) -> bool:
    """Return whether a record may be one of a running gateway; only ``connect`` proves it.

    On this machine the process counts, elsewhere the heartbeat. A heartbeat from the future is as
    doubtful as an old one: a clock set back would keep it fresh for days.
    """
    if record.hostname == socket.gethostname():
        return by_pid.alive(record.process)
    return abs(time.time() - record.beat_at) <= directory.STALE_S


def dialled(record: GatewayRecord) -> str:
    """Return the address by which this machine reaches a gateway."""
    if record.host not in LOOPBACK:
        return record.host
    return LOOPBACK[record.host] if record.hostname == socket.gethostname() else record.hostname


def ways(record: GatewayRecord) -> list[Way]:
    """Return the ways to a gateway, the best first; none for a record that nobody can prove.

    An empty secret would be everybody's: anyone can compute its proofs. A name is looked up, since
    each of its addresses is a way of its own, and may be another machine's.
    """
    if not peer_proof.is_challenge(str(record.proof_secret)):
        return []
    ports: list[Way] = [(address, record.port) for address in _addresses(dialled(record))]
    local = record.hostname == socket.gethostname()
    return [record.socket, *ports] if local and record.socket is not None else ports


def _addresses(host: str) -> list[str]:
    """Return the addresses of a name, without repetition; the name itself if there are none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [host]
    return list(dict.fromkeys(str(place[4][0]) for place in found))


def proved_address(record: GatewayRecord) -> str:
    """Return the address at which a gateway proves itself now, for the tunnel of another machine.

    Raises:
        NotReached: the gateway proves itself at none.
    """
    places = [way for way in ways(record) if not isinstance(way, str)]
    for place in places:
        if proves(record, place):
            return place[0]
    raise not_reached(record, OSError("no address answers"))


def handshake(record: GatewayRecord, place: peer_proof.Place) -> Handshake:
    """Return the client's part of a gateway's proof at the far end of one connection.

    Args:
        record: the gateway's record.
        place: address and port of the far end, None for a Unix socket.
    """
    return Handshake(record.proof_secret.encode(), place)


def check_user(sock: socket.socket) -> None:
    """Check that the far end of a Unix socket is a process of the user.

    Raises:
        NotProved: another user listens there.
    """
    if not hasattr(socket, "SO_PEERCRED"):  # the proof remains
        return
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(found)
    if user != os.getuid():
        raise NotProved(f"the Unix socket's far end is a process of user {user}")


def connect(record: GatewayRecord) -> socket.socket:
    """Return a new connection whose far end has proved to be a record's gateway.

    Raises:
        NotReached: nothing answers, or something else does; no key was sent to it.
    """
    reason: Exception | None = None
    for way in ways(record):
        try:
            return _connect(record, way)
        except (OSError, NotProved) as error:
            reason = reason or error
    raise not_reached(record, reason)


def not_reached(record: GatewayRecord, reason: Exception | None) -> NotReached:
    """Return the error for a gateway that no way led to."""
    told = "its record has no secret" if reason is None else str(reason) or "no answer in time"
    return NotReached(f"the gateway on {record.hostname} cannot be reached: {told}")


def _connect(record: GatewayRecord, way: Way) -> socket.socket:
    deadline = time.monotonic() + PROVE_S
    sock = _opened(way)
    try:
        if isinstance(way, str):
            check_user(sock)
        proof = handshake(record, None if isinstance(way, str) else sock.getpeername()[:2])
        sock.sendall(proof.request)
        # The time left in all: each byte of an endless answer would begin a timeout anew.
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if proof.feed(sock.recv(peer_proof.MOST_BYTES)):
                sock.settimeout(None)
                return sock
        raise TimeoutError("timed out")
    except BaseException:
        sock.close()
        raise


def _opened(way: Way) -> socket.socket:
    if not isinstance(way, str):
        sock = socket.create_connection(way, PROVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(PROVE_S)
        sock.connect(way)
    except BaseException:
        sock.close()
        raise
    return sock


def proves(record: GatewayRecord, way: Way | None = None) -> bool:
    """Return whether a gateway answers a challenge now, over one way or any."""
    try:
        (connect(record) if way is None else _connect(record, way)).close()
    except (OSError, NotProved, NotReached):
        return False
    return True


def get(record: GatewayRecord, path: str, key: str) -> Answer:
    """Return a gateway's answer to a GET with a key, over a proved connection.

    Raises:
        NotReached: the gateway was not reached, or its answer broke off.
    """
    client = http.client.HTTPConnection("localhost")
    # Else http.client would open a connection of its own, unproved, once ours is closed.
    client.auto_open = 0
    client.sock = connect(record)
    try:
        client.sock.settimeout(ANSWER_S)
        client.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        got = client.getresponse()
        return Answer(got.status, _json(got.read(MOST_BYTES)))
    except (OSError, http.client.HTTPException) as error:
        raise not_reached(record, error) from error
    finally:
        client.close()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
