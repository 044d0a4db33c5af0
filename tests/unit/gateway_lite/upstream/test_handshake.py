"""The handshake of gateway and replica: both sides believe each other, and nobody else."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.upstream.handshake import ReplicaHandshake
from hpc import peer_proof
from hpc.peer_proof import CHALLENGE, PROOF, GatewayHandshake, NotProved, WrongSecret

SECRET = "s" * 43
HOST, PORT = "10.0.0.7", 40123
digits = st.text("0123456789abcdef", min_size=64, max_size=64)


def both_sides() -> tuple[GatewayHandshake, ReplicaHandshake]:
    """Return gateway and replica of one connection."""
    return GatewayHandshake(SECRET, HOST, PORT), ReplicaHandshake(SECRET.encode(), HOST, PORT)


def headers(message: bytes) -> dict[bytes, bytes]:
    """Return the header fields of a request of the gateway's."""
    lines = message.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    return dict(line.split(b": ", 1) for line in lines)


def answer(lines: bytes) -> bytes:
    """Return an answer as a sidecar sends it."""
    date = b"date: Mon, 02 Nov 2026 00:00:00 GMT\r\n"
    return b"HTTP/1.1 200 OK\r\n" + date + lines + b"content-length: 0\r\n\r\n"


def replies(replica: ReplicaHandshake, message: bytes) -> bytes:
    """Return a replica's answer to a message that it takes."""
    lines = replica.answer(headers(message))
    assert lines is not None
    return answer(lines)


def fed(gateway: GatewayHandshake, data: bytes, cut: int) -> bytes:
    """Feed bytes in pieces, and return what is sent."""
    return b"".join(gateway.feed(data[at : at + cut]) for at in range(0, len(data), cut))


@given(st.integers(1, 400))
def test_both_sides_are_proved_after_four_messages_however_they_are_cut(cut: int) -> None:
    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    proof = fed(gateway, replies(replica, gateway.request), cut)
    assert (gateway.done, replica.state) == (False, "proof")
    assert fed(gateway, replies(replica, proof), cut) == b""
    assert (gateway.done, replica.state) == (True, "done")


def test_the_proofs_are_hmacs_over_role_place_and_both_challenges() -> None:
    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    said = replies(replica, gateway.request)
    own = headers(gateway.request)[CHALLENGE.encode()].decode()
    theirs = headers(said)[CHALLENGE.encode()].decode()
    for message, role, pair in (
        (said, "replica", (own, theirs, HOST)),
        (gateway.feed(said), "client", (theirs, own, HOST)),
    ):
        text = "\0".join(("hpc-serve", role, str(PORT), *pair))
        expected = hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()
        assert headers(message)[PROOF.encode()] == expected.encode()


def test_no_message_has_the_secret() -> None:
    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    said = replies(replica, gateway.request)
    proof = gateway.feed(said)
    assert SECRET.encode() not in gateway.request + said + proof + replies(replica, proof)


@pytest.mark.parametrize(
    ("secret", "host", "port"),
    [
        ("t" * 43, HOST, PORT),
        ("", HOST, PORT),
        (SECRET, HOST, PORT + 1),
        (SECRET, "10.0.0.8", PORT),
        (SECRET, "::1", PORT),
    ],
)
def test_another_secret_or_place_is_not_believed_by_either_side(
    secret: str, host: str, port: int
) -> None:
    """Nor is a relay from a neighbour at another address to the true replica."""
    gateway = GatewayHandshake(SECRET, HOST, PORT)
    replica = ReplicaHandshake(secret.encode(), host, port)
    with pytest.raises(WrongSecret):
        gateway.feed(replies(replica, gateway.request))
    assert not gateway.done

    other = GatewayHandshake(secret, host, port)
    replica = ReplicaHandshake(SECRET.encode(), HOST, PORT)
    replies(replica, other.request)
    theirs = headers(other.request)[CHALLENGE.encode()].decode()
    proof = peer_proof.prove(secret.encode(), "client", port, "0" * 64, theirs, host)
    assert replica.answer({PROOF.encode(): proof.encode()}) is None
    assert replica.state == "refused"


@given(st.binary(max_size=3000), st.integers(1, 500))
def test_no_bytes_without_the_secret_are_believed_by_a_gateway(said: bytes, cut: int) -> None:
    gateway = GatewayHandshake(SECRET, HOST, PORT)
    try:
        assert fed(gateway, said, cut) == b""
        assert fed(gateway, answer(said), cut) == b""
    except NotProved:
        pass
    assert not gateway.done


@given(digits, digits)
def test_no_well_formed_guess_is_believed_by_a_gateway(theirs: str, proof: str) -> None:
    lines = f"{CHALLENGE}: {theirs}\r\n{PROOF}: {proof}\r\n".encode()
    with pytest.raises(WrongSecret):
        GatewayHandshake(SECRET, HOST, PORT).feed(answer(lines))


@given(st.lists(st.tuples(st.sampled_from([CHALLENGE, PROOF, "other"]), st.text() | digits)))
def test_no_messages_without_the_secret_are_believed_by_a_replica(
    messages: list[tuple[str, str]],
) -> None:
    replica = ReplicaHandshake(SECRET.encode(), HOST, PORT)
    for name, value in messages:
        replica.answer({name.encode(): value.encode("utf-8", "surrogatepass")})
        assert replica.state != "done"


@pytest.mark.parametrize(
    "change",
    [
        (b"200 OK", b"401 Unauthorized"),
        (b"200 OK", b"204 No Content"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"content-length: 0", b"content-length: -1"),
        (b"content-length: 0\r\n", b""),
        (b"content-length: 0\r\n\r\n", b"content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n"),
        (CHALLENGE.encode(), b"x-other"),
        (PROOF.encode(), b"x-other"),
    ],
)
def test_a_malformed_answer_is_refused_even_with_the_right_proof(
    change: tuple[bytes, bytes],
) -> None:
    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    said = replies(replica, gateway.request)
    assert change[0] in said
    with pytest.raises(NotProved):
        gateway.feed(said.replace(*change))


def test_an_end_or_a_flood_at_any_time_is_refused() -> None:
    for steps in range(3):
        for data in (b"", b"x" * (peer_proof.MOST_BYTES + 1)):
            gateway, replica = both_sides()
            message = gateway.request
            for _ in range(steps):
                message = gateway.feed(replies(replica, message))
            with pytest.raises(NotProved):
                gateway.feed(data)


def test_a_replica_takes_each_message_once() -> None:
    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    proof = gateway.feed(replies(replica, gateway.request))
    assert replica.answer(headers(gateway.request)) is None
    assert replica.answer(headers(proof)) is None
    assert replica.state == "refused"

    gateway, replica = (
        GatewayHandshake(SECRET, HOST, PORT),
        ReplicaHandshake(SECRET.encode(), HOST, PORT),
    )
    proof = gateway.feed(replies(replica, gateway.request))
    replies(replica, proof)
    assert replica.answer(headers(proof)) is None
    assert replica.state == "refused"


def test_challenges_are_never_twice_the_same() -> None:
    messages = {GatewayHandshake(SECRET, HOST, PORT).request for _ in range(100)}
    replica = [ReplicaHandshake(SECRET.encode(), HOST, PORT) for _ in range(100)]
    said = {one.answer({CHALLENGE.encode(): b"a" * 64}) for one in replica}
    assert (len(messages), len(said)) == (100, 100)
