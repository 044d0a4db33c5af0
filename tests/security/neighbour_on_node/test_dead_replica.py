"""A neighbour at the port of a replica that was killed: no prompt, no secret, no forged answer."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hpc.node.certificate import make_certificate
from hpc.state import directory, files
from tests.contract.gateway.engines import read_request
from tests.contract.gateway.programs import run_gateway, save_replica
from tests.security.neighbour_on_node.conftest import Place, kill, wait_ready
from tests.security.neighbour_on_node.impostor import (
    EMPTY,
    ENOUGH,
    FORGED,
    SCRIPTS,
    Ear,
    Impostor,
    answers,
    impostor,
)

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

PROMPT = "a prompt that nobody else may read"
ASKED = {"messages": [{"role": "user", "content": PROMPT}]}


def unharmed(heard: Impostor, secrets: set[str], answer: httpx.Response) -> None:
    """See that a neighbour got nothing, and that his answer was not passed on."""
    for word in (PROMPT, "v1/", "uthorization", *secrets):
        assert word.encode() not in heard.heard
    assert "forged" not in answer.text
    assert all(ear.sent < ENOUGH for ear in heard.ears)


def secrets_of(place: Place) -> set[str]:
    found = (directory.load_secret(place.home, "m", number) for number in (0, 1))
    return {secret for secret in found if secret}


@pytest.mark.timeout(600)
def test_no_listener_at_a_dead_replicas_port_gets_anything(place: Place) -> None:
    replica = place.replica()
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        assert gateway.post(ASKED).status_code == 200  # leaves a kept connection
        kill(replica)
        for name, script in SCRIPTS.items():
            with impostor(replica.port, script) as heard:
                answer = gateway.post(ASKED)
                assert answer.status_code == 502, name
                assert heard.ears, name
                unharmed(heard, secrets_of(place), answer)
            place.beat()
        assert len(place.engine.seen) == 1
        again = place.replica(port=replica.port)
        assert gateway.post(ASKED).status_code == 200
        kill(again)


def test_the_other_replica_answers_for_an_impostor(place: Place) -> None:
    dead, _ = place.replica(0), place.replica(1)
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 2)
        kill(dead)
        for script in (SCRIPTS["guesses"], SCRIPTS["forges answers"], SCRIPTS["closes"]):
            with impostor(dead.port, script) as heard, ThreadPoolExecutor(8) as many:
                for answer in many.map(lambda _: gateway.post(ASKED), range(24)):
                    assert (answer.status_code, answer.json()["engine"]) == (200, "engine")
                    assert answer.headers["x-gateway-backend"] == "m/1"
                    unharmed(heard, secrets_of(place), answer)


def relay_to(port: int) -> tuple[list[bytes], object]:
    """Return a script that relays all bytes to another port, and the bytes of the near end."""
    heard: list[bytes] = []

    def script(ear: Ear) -> None:
        with socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=_pump, args=(far, ear.connection, []), daemon=True)
            back.start()
            _pump(ear.connection, far, heard)

    return heard, script


def _pump(source: socket.socket, sink: socket.socket, heard: list[bytes]) -> None:
    try:
        while data := source.recv(65536):
            heard.append(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.mark.parametrize("whose", ["another replica", "the same secret", "the replica's successor"])
def test_a_relay_to_a_true_sidecar_is_not_believed(place: Place, whose: str) -> None:
    secret = "x" * 43 if whose == "the same secret" else None
    dead = place.replica(0, secret=secret)
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(dead)
        if whose == "the replica's successor":
            true = place.replica(0)
            save_replica(place.home, dead.url, certificate=dead.certificate)  # not yet published
        else:
            true = place.replica(1, secret=secret)
            directory.replica_dir(place.home, "m", 1).joinpath("endpoint.json").unlink()
            wait_ready(gateway, 1)
        heard, script = relay_to(true.port)
        with impostor(dead.port, script) as ears:  # type: ignore[arg-type]
            answer = gateway.post(ASKED)
            assert answer.status_code == 502
            assert ears.ears
            assert PROMPT.encode() not in b"".join(heard)
            assert b"POST" not in b"".join(heard)
    assert place.engine.seen == []


def test_a_relay_at_another_address_of_the_record_is_passed_over(place: Place) -> None:
    """The true replica lives; a neighbour listens at the same port of an address named first."""
    true = place.replica()
    heard, script = relay_to(true.port)
    with impostor(true.port, script, "127.0.0.2") as ears:  # type: ignore[arg-type]
        first = true.url.replace("127.0.0.1", "127.0.0.2")
        save_replica(
            place.home, first, certificate=true.certificate, addresses=("127.0.0.1",), job_id="2"
        )
        with run_gateway(place.home) as gateway:
            wait_ready(gateway, 1)
            assert gateway.post(ASKED).status_code == 200
        assert ears.ears
        assert PROMPT.encode() not in b"".join(heard)
        assert b"POST" not in b"".join(heard)


def test_recorded_answers_of_the_replica_are_worth_nothing(place: Place) -> None:
    replica = place.replica()
    if place.tls:
        pytest.skip("nothing can be recorded")
    recorded = []
    with socket.create_connection(("127.0.0.1", replica.port)) as sock:
        sock.sendall(b"GET /handshake HTTP/1.1\r\nx-hpc-serve-challenge: %b\r\n\r\n" % (b"a" * 64))
        recorded.append(read_request(sock))
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(replica)

        def script(ear: Ear) -> None:
            for said in (*recorded, b"HTTP/1.1 200 OK\r\n" + EMPTY, FORGED):
                ear.request()
                ear.send(said)

        assert b"x-hpc-serve-proof" in recorded[0]
        with impostor(replica.port, script) as heard:
            answer = gateway.post(ASKED)
            assert answer.status_code == 502
            unharmed(heard, secrets_of(place), answer)


def test_a_stream_of_a_killed_replica_is_not_continued_by_a_neighbour(place: Place) -> None:
    replica = place.replica()
    with run_gateway(place.home) as gateway, gateway.client() as client:
        wait_ready(gateway, 1)
        body = {"model": "m", **ASKED, "stream": True, "hold": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            parts = answer.iter_raw()
            first = next(parts)
            kill(replica)
            with impostor(replica.port, answers(FORGED)) as heard:
                rest = b"".join(parts)
        assert b"upstream_error" in rest
        assert b"forged" not in first + rest
        assert PROMPT.encode() not in heard.heard
    place.engine.go.set()


def test_a_replica_that_started_again_at_its_port_is_found_by_its_new_secret(place: Place) -> None:
    replica = place.replica()
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        assert gateway.post(ASKED).status_code == 200
        for _ in range(3):
            kill(replica)
            replica = place.replica(port=replica.port)
            assert gateway.post(ASKED).status_code == 200
    assert len(place.engine.seen) == 4


def test_a_secret_that_is_gone_sends_nothing_to_anybody(place: Place) -> None:
    """A replica that ends in order removes its secret, and its record may stay as it was."""
    replica = place.replica()
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(replica)
        directory.drop_secret(place.home, "m", 0)
        with impostor(replica.port, SCRIPTS["guesses"]) as heard:
            answers = [gateway.post(ASKED) for _ in range(3)]
            assert {answer.status_code for answer in answers} <= {502, 503}
            unharmed(heard, {replica.key}, answers[-1])


def test_another_certificate_with_the_right_proof_is_refused(place: Place) -> None:
    if not place.tls:
        pytest.skip("there is no certificate")
    replica = place.replica()
    record = directory.load_endpoint(place.home, "m", 0)
    assert record is not None
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(replica)
        place.replica(port=replica.port, secret=replica.key)
        directory.save_endpoint(place.home, record)
        answer = gateway.post(ASKED)
        assert answer.status_code == 502
    assert place.engine.seen == []


def test_tls_with_a_certificate_of_the_neighbour_gets_nothing(place: Place, tmp_path: Path) -> None:
    replica = place.replica()
    own = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)
    inside: list[bytes] = []

    def script(ear: Ear) -> None:
        with context.wrap_socket(ear.connection, server_side=True) as sock:
            inside.append(sock.recv(65536))

    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(replica)
        with impostor(replica.port, script) as heard:
            assert gateway.post(ASKED).status_code == 502
            assert heard.ears
    assert b"".join(inside) == b""


def test_the_logs_and_records_of_the_gateway_hold_no_secret(place: Place) -> None:
    replica = place.replica()
    with run_gateway(place.home) as gateway:
        wait_ready(gateway, 1)
        kill(replica)
        with impostor(replica.port, SCRIPTS["guesses"]):
            gateway.post(ASKED)
        told = gateway.log.read_text() + "".join(
            files.read_text(path) or "" for path in place.home.glob("gateways/*/*")
        )
    assert "m/0" in told
    assert replica.key not in told
    assert PROMPT not in told
    assert json.dumps(ASKED) not in told
