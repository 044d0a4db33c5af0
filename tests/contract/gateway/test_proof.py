"""The gateway's proof on each new connection, before any key is sent."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from hpc import peer_proof
from hpc.keys import store as key_store
from hpc.peer_proof import Handshake, NotProved
from hpc.state import directory
from tests.contract.gateway.programs import run_gateway

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import GatewayRecord


def record_in(home: Path) -> GatewayRecord:
    record = directory.load_gateway(home, socket.gethostname())
    assert record is not None
    return record


def prove(sock: socket.socket, handshake: Handshake) -> None:
    """Run a handshake on a connected socket."""
    sock.settimeout(60)
    sock.sendall(handshake.request)
    while not handshake.feed(sock.recv(65536)):
        pass


@pytest.mark.parametrize("workers", ["1", "2"])
def test_tcp_and_unix_connections_are_proved_with_the_records_secret(
    home: Path, tmp_path: Path, workers: str
) -> None:
    path = str(tmp_path / "s")
    with run_gateway(home, {}, "--unix", path, "--workers", workers):
        record = record_in(home)
        assert record.socket == path
        secret = record.proof_secret.encode()
        for _ in range(8):  # whichever worker accepts
            with socket.create_connection((record.host, record.port), timeout=60) as sock:
                prove(sock, Handshake(secret, sock.getpeername()))
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b" 200 OK" in sock.recv(4096)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            prove(sock, Handshake(secret, None))


def test_the_proof_is_of_this_start_and_of_this_address(home: Path) -> None:
    with run_gateway(home, {}):
        first = record_in(home)
        address = (first.host, first.port)
        for place in ((first.host, first.port + 1), ("127.0.0.2", first.port), None):
            with (
                socket.create_connection(address, timeout=60) as sock,
                pytest.raises(NotProved),
            ):
                prove(sock, Handshake(first.proof_secret.encode(), place))
    key_store.revoke(directory.keys_path(home), "tester")
    with run_gateway(home, {}):
        second = record_in(home)
        with (
            socket.create_connection((second.host, second.port), timeout=60) as sock,
            pytest.raises(NotProved),
        ):
            prove(sock, Handshake(first.proof_secret.encode(), sock.getpeername()))


def test_no_proof_of_what_is_no_challenge(home: Path) -> None:
    with run_gateway(home, {}):
        record = record_in(home)
        with socket.create_connection((record.host, record.port), timeout=60) as sock:
            for text in ("", "0" * 63, "0" * 65, "G" * 64, "é" * 32):
                asked = (
                    f"GET /healthz HTTP/1.1\r\nHost: x\r\n{peer_proof.CHALLENGE}: {text}\r\n\r\n"
                )
                sock.sendall(asked.encode())
                assert peer_proof.PROOF.encode() not in sock.recv(4096).lower()
