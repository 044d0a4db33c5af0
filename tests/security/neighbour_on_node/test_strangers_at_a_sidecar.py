"""A neighbour that connects to a living sidecar: 401, and not a byte for the engine."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from gateway_lite.upstream.pool import tls_context
from hpc.peer_proof import GatewayHandshake
from tests.contract.gateway.engines import read_request
from tests.contract.gateway.programs import PATIENCE_S, Running
from tests.contract.gateway.test_sidecar import CLOSED, OPEN

if TYPE_CHECKING:
    from tests.security.neighbour_on_node.conftest import Place

BODY = b'{"model": "m", "messages": []}'
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHALLENGE = b"GET /handshake HTTP/1.1\r\nx-hpc-serve-challenge: %b\r\n\r\n"
PROOF = b"GET /handshake HTTP/1.1\r\nx-hpc-serve-proof: %b\r\n\r\n"
ANY = b"a" * 64


@pytest.fixture
def sidecar(place: Place) -> Running:
    """Run the sidecar of a replica."""
    return place.replica()


def dial(sidecar: Running) -> socket.socket:
    """Return a connection that has proved nothing."""
    sock = socket.create_connection(("127.0.0.1", sidecar.port), timeout=PATIENCE_S)
    return (
        sock if sidecar.certificate is None else tls_context(sidecar.certificate).wrap_socket(sock)
    )


def said(sidecar: Running, *parts: bytes) -> bytes:
    """Return all that a sidecar answers to bytes, until it closes the connection."""
    with dial(sidecar) as sock:
        for part in parts:
            sock.sendall(part)
        return rest(sock)


def rest(sock: socket.socket) -> bytes:
    found = b""
    try:
        while data := sock.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def field(answer: bytes, name: bytes) -> bytes:
    return answer.partition(name + b": ")[2].partition(b"\r\n")[0]


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def proved(sidecar: Running) -> tuple[socket.socket, list[bytes]]:
    """Return a connection with the gateway's proof, and all that the gateway sent on it."""
    sock, handshake = dial(sidecar), GatewayHandshake(sidecar.key, "127.0.0.1", sidecar.port)
    sent = [handshake.request]
    sock.sendall(handshake.request)
    while not handshake.done:
        if more := handshake.feed(sock.recv(65536)):
            sent.append(more)
            sock.sendall(more)
    return sock, sent


def test_every_path_is_closed_to_a_stranger(place: Place, sidecar: Running) -> None:
    for method, path in (*OPEN, *CLOSED, ("GET", "/handshake"), ("POST", "/handshake")):
        asked = f"{method} {path} HTTP/1.1\r\ncontent-length: 0\r\n\r\n".encode()
        answer = said(sidecar, asked)
        assert statuses(answer) == [401], (method, path)
        assert b"connection: close" in answer
    assert place.engine.seen == []


@pytest.mark.parametrize(
    "parts",
    [
        (CHALLENGE % ANY + CHAT,),
        (CHAT + CHALLENGE % ANY,),
        (CHALLENGE % ANY, PROOF % ANY, CHAT),
        (CHALLENGE % ANY + PROOF % ANY + CHAT + CHAT,),
        (PROOF % ANY + CHAT,),
        (CHALLENGE % ANY + CHALLENGE % ANY + CHAT,),
        (CHALLENGE % (b"A" * 64) + CHAT,),
        (CHALLENGE % b"" + CHAT,),
        (PROOF % b"" + CHAT,),
        (CHALLENGE % ANY + PROOF % b"\xff\xfe" + CHAT,),
        (CHAT.replace(b"1.1\r\n", b"1.1\r\nx-hpc-serve-proof: %b\r\n" % ANY),),
        (CHAT.replace(b"/v1", b"http://x/handshake/../v1"),),
        (CHAT.replace(b"/v1/chat/completions", b"/handshake?/v1/chat/completions"),),
        (CHALLENGE.replace(b"GET", b"POST") % ANY + CHAT,),
        (CHALLENGE.replace(b"\r\n\r\n", b"\r\ncontent-length: 9999999\r\n\r\n") % ANY,),
        (CHALLENGE.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n") % ANY,),
    ],
)
def test_no_order_of_messages_opens_anything(
    place: Place, sidecar: Running, parts: tuple[bytes, ...]
) -> None:
    answer = said(sidecar, *parts)

    assert statuses(answer)[-1] == 401
    assert set(statuses(answer)) <= {200, 401}
    assert place.engine.seen == []


def test_a_recorded_handshake_opens_nothing(place: Place, sidecar: Running) -> None:
    sock, sent = proved(sidecar)
    sock.close()
    for parts in (sent, [b"".join(sent)], sent[1:]):
        assert statuses(said(sidecar, *parts, CHAT))[-1] == 401
    assert place.engine.seen == []


def test_the_sidecars_own_proof_is_no_proof_of_a_client(place: Place, sidecar: Running) -> None:
    with dial(sidecar) as sock:
        sock.sendall(CHALLENGE % ANY)
        answer = read_request(sock)
        sock.sendall(PROOF % field(answer, b"x-hpc-serve-proof") + CHAT)
        assert statuses(rest(sock)) == [401]
    assert place.engine.seen == []


def test_a_challenge_is_relayed_to_no_other_connection(place: Place, sidecar: Running) -> None:
    """A neighbour asks for the gateway's proof of one connection, and shows it on another."""
    handshake = GatewayHandshake(sidecar.key, "127.0.0.1", sidecar.port)
    with dial(sidecar) as first, dial(sidecar) as second:
        for sock in (first, second):
            sock.sendall(handshake.request)
        own, other = read_request(first), read_request(second)
        assert field(own, b"x-hpc-serve-challenge") != field(other, b"x-hpc-serve-challenge")
        proof = handshake.feed(own)
        second.sendall(proof + CHAT)
        assert statuses(rest(second)) == [401]
        assert place.engine.seen == []
        first.sendall(proof)
        assert handshake.feed(first.recv(65536)) == b""
        assert handshake.done


def test_a_proved_connection_opens_no_other_and_may_not_begin_again(
    place: Place, sidecar: Running
) -> None:
    sock, sent = proved(sidecar)
    with sock:
        assert statuses(said(sidecar, CHAT)) == [401]
        sock.sendall(CHAT)
        assert b"200 OK" in sock.recv(65536)
        sock.sendall(sent[0] + CHAT)
        assert statuses(rest(sock)) == [401]
    assert len(place.engine.seen) == 1


def test_half_a_handshake_keeps_no_other_waiting(place: Place, sidecar: Running) -> None:
    halves = [dial(sidecar) for _ in range(50)]
    for sock in halves:
        sock.sendall((CHALLENGE % ANY)[:40])
    began = time.monotonic()
    assert sidecar.post({}).status_code == 200
    took = time.monotonic() - began
    for sock in halves:
        sock.close()
    assert took < PATIENCE_S
    assert len(place.engine.seen) == 1


def test_a_plain_connection_to_a_sidecar_with_tls_gets_no_answer(
    place: Place, sidecar: Running
) -> None:
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=PATIENCE_S) as sock:
        sock.sendall(CHALLENGE % ANY + CHAT)
        answer = rest(sock)
    assert (b"HTTP/1.1 200" in answer) is not place.tls
    assert place.engine.seen == []
