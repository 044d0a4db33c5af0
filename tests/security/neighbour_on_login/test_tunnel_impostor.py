"""Another user of the login node listens where the gateway did, and gets no byte of a client."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Literal

import httpx
import pytest

from hpc import peer_proof
from hpc.errors import TunnelError
from tests.fakes.login_node import KEY, Gateway, LoginNode, opened, shared_node, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpc.connection.connection import ClusterConnection

Kind = Literal["well", "replay", "drip", "silent", "early"]
KINDS: tuple[Kind, ...] = ("well", "replay", "drip", "silent", "early")
WAYS = ["openssh port", "openssh socket", "openssh relay", "paramiko port", "paramiko relay"]
PROMPT = "a prompt that nobody else may read"


class Impostor:
    """A server that tries to pass as the gateway, and keeps each byte that it gets.

    Args:
        address: port or path that it takes.
        kind: "well" answers 200, "replay" shows a proof of another challenge, "drip" sends a byte
            now and then, "silent" nothing, "early" an answer to a request that did not come yet.
    """

    def __init__(self, address: int | str, kind: Kind, secret: str) -> None:
        self.got = b""
        self.met = 0
        self._kind = kind
        self._old = peer_proof.prove(secret.encode(), "gateway", 0, peer_proof.new_challenge())
        if isinstance(address, str):
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(address)
            self._listener.listen()
        else:
            self._listener = socket.create_server(("127.0.0.1", address))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.met += 1
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "forged"}]})
        proof = f"{peer_proof.PROOF}: {self._old}\r\n" if self._kind == "replay" else ""
        head = f"HTTP/1.1 200 OK\r\n{proof}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        with suppress(OSError), sock:
            while data := sock.recv(4096):
                self.got += data
                if self._kind == "drip":
                    for byte in head[:40]:
                        sock.sendall(bytes([byte]))
                        time.sleep(0.5)
                elif self._kind != "silent":
                    sock.sendall(head * (2 if self._kind == "early" else 1))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.fixture
def node(
    running: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoginNode]:
    with opened(running, tmp_path / "laptop", monkeypatch) as node:
        yield node


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(
    node: LoginNode, way: str, events: list[str], patience: float = 60
) -> ClusterConnection:
    transport, kind = way.split(maxsplit=1)
    return node.connect(
        transport,
        relay=kind == "relay",
        patience=patience,
        on_event=lambda event, text: events.append(f"{event}: {text}"),
    )


def ask(cluster: ClusterConnection) -> int:
    """Return the status of a request with key and prompt, on a new connection."""
    body = {"model": "demo", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    answer = httpx.post(
        f"{cluster.base_url}/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        trust_env=False,
        timeout=120,
    )
    return answer.status_code


def nothing_arrived(impostor: Impostor) -> None:
    assert impostor.met
    assert KEY.encode() not in impostor.got
    assert PROMPT.encode() not in impostor.got
    requests = impostor.got.count(b" HTTP/1.1\r\n")
    assert requests == impostor.got.count(b"GET /healthz HTTP/1.1\r\n")


def test_the_successor_at_the_address_gets_nothing(
    node: LoginNode, way: str, tmp_path: Path
) -> None:
    """The gateway dies, another user takes its place, and a new gateway comes later."""
    events: list[str] = []
    path = str(tmp_path / "gateway.sock") if way.endswith("socket") else None
    with Gateway(path) as first:
        node.answer_well(first)
        with connect(node, way, events) as cluster:
            assert ask(cluster) == 200
            place = path or first.server_port
            first.leave()
            with closing(Impostor(place, "well", first.proof_secret)) as impostor:
                cluster._port._patience_s = 1.0
                assert ask(cluster) == 503
                until(lambda: impostor.met > 0, "the impostor was asked")
                cluster._port._patience_s = 60.0
                node.answer_well()
                assert ask(cluster) == 200
                nothing_arrived(impostor)
    assert not [event for event in events if event.startswith("failed")]


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_passes_for_a_proof(node: LoginNode, kind: Kind) -> None:
    events: list[str] = []
    with Gateway() as first:
        node.answer_well(first)
        with connect(node, "openssh port", events) as cluster:
            assert ask(cluster) == 200
            port = first.server_port
            first.leave()
            with closing(Impostor(port, kind, first.proof_secret)) as impostor:
                cluster._port._patience_s = 0.5
                assert ask(cluster) == 503
                until(lambda: impostor.met > 0, "the impostor was asked")
                cluster._port._patience_s = 100.0
                node.answer_well()
                assert ask(cluster) == 200
                nothing_arrived(impostor)


@pytest.mark.parametrize("transport", ["openssh", "paramiko"])
def test_a_first_connection_to_an_impostor_is_named(node: LoginNode, transport: str) -> None:
    with Gateway() as gone:
        node.answer_well(gone)
        port = gone.server_port
        gone.leave()
        with closing(Impostor(port, "well", gone.proof_secret)) as impostor:
            with pytest.raises(TunnelError, match="another program answers in the place of"):
                connect(node, f"{transport} port", [])
            nothing_arrived(impostor)


def test_an_old_gateway_that_still_answers_does_not_vouch_for_new_connections(
    node: LoginNode,
) -> None:
    """A gateway that drains has open connections, the probe's too, but its port is free."""
    events: list[str] = []
    with Gateway() as old:
        node.answer_well(old)
        with connect(node, "openssh port", events) as cluster:
            port = old.server_port
            old.shutdown()
            old.server_close()
            with closing(Impostor(port, "well", old.proof_secret)) as impostor:
                node.answer_well()
                assert ask(cluster) == 200
                nothing_arrived(impostor)
    assert any(event.startswith("moved") for event in events)


@pytest.mark.parametrize("secret", ["", "a" * 63, "a" * 65, "g" * 64, None])
def test_a_gateway_without_a_secret_is_no_gateway(node: LoginNode, secret: str | None) -> None:
    reply = {"host": "127.0.0.1", "port": 9, "key": KEY, "version": "1", "proof_secret": secret}
    node.answer(f"echo '{json.dumps(reply)}'")
    with pytest.raises(TunnelError, match="did not say where its gateway listens"):
        connect(node, "openssh port", [])


def test_the_secret_is_shown_nowhere(
    node: LoginNode, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    with connect(node, "openssh relay", events) as cluster:
        assert ask(cluster) == 200
        secret = node.gateway.proof_secret
        session = cluster._keeper.session
        assert secret not in repr(session)
        kept = [path for path in (tmp_path / "laptop").rglob("*") if path.is_file()]
        assert kept
        assert not [path for path in kept if secret in path.read_text()]
        assert secret not in "".join([*node.clients(), *events])
    assert secret not in "".join(capfd.readouterr())
