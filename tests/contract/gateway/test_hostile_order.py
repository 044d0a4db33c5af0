"""Odd but lawful HTTP: pipelines, old versions, expectations, and clients that half leave."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.gateway.hostile import door, front, gate, gateway_only, worker
from tests.contract.gateway.programs import BODY
from tests.contract.gateway.wire import HI, Wire

if TYPE_CHECKING:
    from tests.contract.gateway.engines import Engine
    from tests.contract.gateway.programs import Running

__all__ = ["door", "front", "gate", "gateway_only", "worker"]

TELLING = "expect: 100-continue"
MODELS = {"method": "GET", "path": "/v1/models"}


def ask(wire: Wire, number: int, **fields: Any) -> bytes:
    """Return a request that carries a number as its id."""
    content = json.dumps({**BODY, **fields}).encode()
    return wire.request(content, f"x-request-id: n{number}")


def names(wire: Wire, count: int) -> list[str]:
    """Return the ids of the next answers, all of which have to be good."""
    found = []
    for _ in range(count):
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 200, answer
        found.append(answer.headers["x-request-id"])
    return found


@pytest.mark.parametrize("count", [2, 10])
def test_a_pipeline_is_answered_in_order(front: Running, count: int) -> None:
    with Wire(front) as wire:
        slow_first = [ask(wire, n, wait=0.1 if n == 0 else 0) for n in range(count)]
        wire.send(b"".join(slow_first))

        assert names(wire, count) == [f"n{n}" for n in range(count)]


def test_a_pipeline_of_whole_answers_streams_and_pages_keeps_its_order(
    gateway_only: Running,
) -> None:
    with Wire(gateway_only) as wire:
        requests = []
        for number in range(0, 9, 3):
            requests.append(ask(wire, number, wait=0.05))
            requests.append(wire.request(b"", f"x-request-id: n{number + 1}", **MODELS))
            requests.append(ask(wire, number + 2, stream=True, gap=0.01))
        wire.send(b"".join(requests))

        assert names(wire, 9) == [f"n{n}" for n in range(9)]


def test_a_pipeline_survives_a_refusal_in_its_midst(gateway_only: Running) -> None:
    with Wire(gateway_only) as wire:
        wrong = wire.request(b'{"model": "nobody"}')
        wire.send(ask(wire, 0, wait=0.05) + wrong + ask(wire, 2))
        assert names(wire, 1) == ["n0"]
        refused = wire.answer()
        assert refused is not None
        assert refused.code() == "model_not_found"

        assert names(wire, 1) == ["n2"]


def test_nonsense_behind_a_good_request_does_not_spoil_its_answer(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(ask(wire, 0, wait=0.2) + b"NONSENSE \0\r\n\r\n")
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 200
        after = wire.answer()

        assert after is None or after.status == 400
        assert wire.closed()


def test_a_pipeline_cut_anywhere_is_the_same(front: Running) -> None:
    with Wire(front) as wire:
        data = ask(wire, 0) + ask(wire, 1)
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), 7):
            wire.send(data[at : at + 7])

        assert names(wire, 2) == ["n0", "n1"]


@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_no_chunks_and_a_close(front: Running, *, stream: bool) -> None:
    with Wire(front) as wire:
        content = json.dumps({**BODY, "stream": stream}).encode()
        wire.send(wire.request(content, version="HTTP/1.0"))
        answer = wire.answer()
        assert answer is not None
        assert answer.status == 200
        assert "transfer-encoding" not in answer.headers
        assert b"[DONE]" in answer.body if stream else json.loads(answer.body)

        assert wire.closed()


def test_connection_close_is_kept(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(wire.request(HI, "connection: close"))
        assert wire.answer() is not None

        assert wire.closed()


def test_an_expectation_is_met_before_the_body_is_sent(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(wire.head(f"content-length: {len(HI)}", TELLING))
        go_on = wire.answer(bodiless=True)
        assert go_on is not None
        assert go_on.status == 100
        wire.send(HI)
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200


def test_an_expectation_is_refused_before_the_body_is_sent(front: Running) -> None:
    refusals = {
        401: [f"content-length: {len(HI)}"],
        413: [f"content-length: {2**40}"],
    }
    for status, lines in refusals.items():
        with Wire(front, stranger=status == 401) as wire:
            wire.send(wire.head(*lines, TELLING))
            answer = wire.answer()
            assert answer is not None
            assert answer.status == status
            assert answer.code()
            assert wire.closed()


def test_a_client_that_does_not_wait_to_be_told_is_served(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(wire.request(HI, TELLING))
        first = wire.answer(bodiless=True)
        assert first is not None
        assert first.status == 100
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200


def test_head_has_no_body(gateway_only: Running) -> None:
    with Wire(gateway_only) as wire:
        for path in ("/healthz", "/v1/models", "/nowhere"):
            wire.send(wire.head(method="HEAD", path=path))
            answer = wire.answer(bodiless=True)
            assert answer is not None, path
            assert answer.status == (404 if path == "/nowhere" else 200)

        wire.send(wire.request())
        last = wire.answer()
    assert last is not None
    assert last.status == 200


def test_half_a_close_after_a_request_counts_as_leaving(front: Running, worker: Engine) -> None:
    """A FIN is all there is to see of a client that left, so that it has to end the work."""
    before = len(worker.seen)
    with Wire(front) as wire:
        wire.send(ask(wire, 0, wait=20))
        assert worker.wait_seen(before + 1)
        wire.sock.shutdown(socket.SHUT_WR)

        assert worker.wait_for(lambda: worker.seen[-1].left_at is not None)
        assert wire.answer() is None


def test_half_a_close_in_a_request_ends_it(front: Running, worker: Engine) -> None:
    before = len(worker.seen)
    for part in (b"POST /v1/chat", None, HI[:5]):
        with Wire(front) as wire:
            head = wire.head(f"content-length: {len(HI)}")
            wire.send(head + part if part == HI[:5] else part or head)
            wire.sock.shutdown(socket.SHUT_WR)
            answer = wire.answer()
            assert answer is None or answer.status == 400
            assert wire.closed()

    assert len(worker.seen) == before


def test_one_connection_serves_many(front: Running, worker: Engine) -> None:
    before = len(worker.seen)
    with Wire(front) as wire:
        for number in range(300):
            wire.send(ask(wire, number))
            assert names(wire, 1) == [f"n{number}"]

    assert len(worker.seen) == before + 300


@pytest.mark.parametrize(
    "fields",
    [{"wait": 20}, {"stream": True, "wait": 20}, {"stream": True, "prefill": 20}],
    ids=["unary", "before headers", "in prefill"],
)
def test_leaving_a_pipeline_ends_all_of_it(
    front: Running, worker: Engine, fields: dict[str, Any]
) -> None:
    before = len(worker.seen)
    with Wire(front) as wire:
        wire.send(ask(wire, 0, **fields) + ask(wire, 1))
        assert worker.wait_seen(before + 1)

    assert worker.wait_for(lambda: worker.seen[before].left_at is not None)
    assert len(worker.seen) == before + 1


def test_leaving_after_the_last_word_is_not_leaving(front: Running, worker: Engine) -> None:
    with Wire(front) as wire:
        wire.send(ask(wire, 0, stream=True, n=1, linger=0.3))
        got = b""
        while b"[DONE]" not in got:
            got += wire.sock.recv(65536)

    assert worker.wait_for(lambda: worker.seen[-1].worked_until > 0)
    with Wire(front) as wire:
        wire.send(ask(wire, 1, wait=0.5))
        assert names(wire, 1) == ["n1"]
    assert worker.seen[-2].left_at is None
