"""A peer's proof: only the secret's holder answers, for its own role, port and challenge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc import peer_proof
from hpc.peer_proof import Handshake, NotProved, Place

SECRET = b"s" * 64
PORT = 8000
PLACE = ("10.0.0.1", PORT)


def answer(handshake: Handshake, secret: bytes = SECRET, *, at: Place = PLACE) -> bytes:
    """Return a gateway's answer to a handshake's request."""
    asked = handshake.request.decode().partition(f"{peer_proof.CHALLENGE}: ")[2].split("\r\n")[0]
    assert peer_proof.is_challenge(asked)
    proof = peer_proof.prove_gateway(secret, at, asked)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{peer_proof.PROOF}: {proof}\r\n\r\n"
    return head.encode() + b"{}"


@given(st.integers(1, 400))
def test_the_secrets_holder_is_believed_however_its_answer_is_cut(cut: int) -> None:
    handshake = Handshake(SECRET, PLACE)
    said = answer(handshake)
    pieces = [said[at : at + cut] for at in range(0, len(said), cut)]

    assert [handshake.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_another_secret_address_port_or_challenge_is_not_believed() -> None:
    strange: tuple[dict[str, Any], ...] = (
        {"secret": b"t" * 64},
        {"at": ("10.0.0.1", PORT + 1)},
        {"at": ("10.0.0.2", PORT)},
        {"at": ("::1", PORT)},
        {"at": None},
    )
    for change in strange:
        handshake = Handshake(SECRET, PLACE)
        with pytest.raises(NotProved):
            handshake.feed(answer(handshake, **change))
    with pytest.raises(NotProved):
        Handshake(SECRET, PLACE).feed(answer(Handshake(SECRET, PLACE)))


@pytest.mark.parametrize(
    ("one", "other"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "FE80:0::1"), ("127.0.0.1", "127.0.0.1")],
)
def test_two_spellings_of_an_address_are_one(one: str, other: str) -> None:
    handshake = Handshake(SECRET, (one, PORT))
    assert handshake.feed(answer(handshake, at=(other, PORT)))


@pytest.mark.parametrize("name", ["", "login.site.org", "localhost", "10.0.0"])
def test_a_name_is_no_place(name: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        Handshake(SECRET, (name, PORT))


@pytest.mark.parametrize(
    "change",
    [
        (b"200 OK", b"401 Unauthorized"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Content-Length: 2", b"Content-Length: -2"),
        (b"Content-Length: 2\r\n", b""),
        (b"{}", b"{}HTTP/1.1 200 OK"),
    ],
)
def test_a_malformed_answer_is_refused(change: tuple[bytes, bytes]) -> None:
    handshake = Handshake(SECRET, PLACE)
    with pytest.raises(NotProved):
        handshake.feed(answer(handshake).replace(*change))


@given(st.binary(min_size=1, max_size=2000))
def test_no_other_bytes_are_a_proof(said: bytes) -> None:
    handshake = Handshake(SECRET, PLACE)
    try:
        assert not handshake.feed(said)
        assert not handshake.feed(b"\r\n\r\n")
    except NotProved:
        return
    pytest.fail("bytes without a proof were believed")


def test_an_endless_answer_and_an_early_end_are_refused() -> None:
    with pytest.raises(NotProved):
        Handshake(SECRET, PLACE).feed(b"x" * (peer_proof.MOST_BYTES + 1))
    with pytest.raises(NotProved):
        Handshake(SECRET, PLACE).feed(b"")


def test_each_side_proves_itself_with_both_challenges() -> None:
    ours, theirs = peer_proof.new_challenge(), peer_proof.new_challenge()
    proof = peer_proof.prove(SECRET, "replica", PORT, ours, theirs)

    assert peer_proof.holds(SECRET, proof, "replica", PORT, ours, theirs)
    assert not peer_proof.holds(SECRET, proof, "client", PORT, ours, theirs)
    assert not peer_proof.holds(SECRET, proof, "replica", PORT, theirs, ours)
    assert not peer_proof.holds(SECRET, "é" * 64, "replica", PORT, ours, theirs)


def test_secrets_and_challenges_are_never_twice_the_same() -> None:
    assert len({peer_proof.new_challenge() for _ in range(100)}) == 100
    assert peer_proof.is_challenge(peer_proof.new_secret())
    assert not peer_proof.is_challenge("0" * 63 + "G")
