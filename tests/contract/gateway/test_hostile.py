"""Requests that are no HTTP, or no JSON: a clear 4xx or a close, and nobody else notices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.contract.gateway.hostile import door, front, gate, gateway_only, worker
from tests.contract.gateway.wire import CHAT, HI, Wire

if TYPE_CHECKING:
    from tests.contract.gateway.engines import Engine
    from tests.contract.gateway.programs import Running

__all__ = ["door", "front", "gate", "gateway_only", "worker"]

CHUNKED = "transfer-encoding: chunked"
ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (len(HI), HI)
BAD_FRAMING = {
    "both lengths": ([f"content-length: {len(HI)}", CHUNKED], ONE_CHUNK),
    "both lengths, the other way round": ([CHUNKED, f"content-length: {len(HI)}"], ONE_CHUNK),
    "two lengths": ([f"content-length: {len(HI)}", "content-length: 3"], HI),
    "a list of lengths": ([f"content-length: {len(HI)}, 3"], HI),
    "negative length": (["content-length: -5"], HI),
    "signed length": ([f"content-length: +{len(HI)}"], HI),
    "hexadecimal length": ([f"content-length: {len(HI):#x}"], HI),
    "absurd length": ([f"content-length: {'9' * 30}"], HI),
    "length of words": (["content-length: many"], HI),
    "no chunk size": ([CHUNKED], b"zz\r\n" + HI),
    "chunk without end": ([CHUNKED], b"5\r\n{....." + HI),
    "absurd chunk": ([CHUNKED], b"f" * 20 + b"\r\n" + HI),
    "negative chunk": ([CHUNKED], b"-5\r\n" + HI),
    "chunked twice": ([f"{CHUNKED}, chunked"], ONE_CHUNK),
    "unknown coding": (["transfer-encoding: xchunked"], ONE_CHUNK),
    "chunked not last": (["transfer-encoding: chunked, gzip"], ONE_CHUNK),
    "folded": (["x-a: one", " two", CHUNKED.replace(":", " :")], ONE_CHUNK),
    "space before the colon": ([f"content-length : {len(HI)}"], HI),
    "NUL in a value": ([f"content-length: {len(HI)}", "x-a: a\0b"], HI),
    "NUL in a name": ([f"content-length: {len(HI)}", "x\0a: b"], HI),
    "bare CR": ([f"content-length: {len(HI)}", "x-a: a\rb: c"], HI),
    "no colon": ([f"content-length: {len(HI)}", "nonsense"], HI),
    "empty name": ([f"content-length: {len(HI)}", ": b"], HI),
}
NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "a version from the future": b"GET /v1/models HTTP/9.9\r\n\r\n",
    "an unknown method": b"BREW /v1/models HTTP/1.1\r\n\r\n",
    "a small method": b"get /v1/models HTTP/1.1\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "zeros": b"\0" * 1000,
    "noise": bytes(range(256)) * 8 + b"\r\n\r\n",
    "a space in the path": b"GET /v1/ models HTTP/1.1\r\n\r\n",
}
TRICKS = (
    "/v1/../metrics",
    "/v1/./models/../../metrics",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat/completions/",
    "/v1/chat/../chat/completions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/chat%2fcompletions",
    "/v1/chat/completions%00",
    "/v1/chat/completions;a=b",
    "/V1/chat/completions",
    "/v1/chat/completions/../../invocations",
    "/invocations",
    "/pause",
    "*",
)


def refused(wire: Wire) -> str:
    """Return the code of the refusal; empty where the connection was just closed."""
    answer = wire.answer()
    if answer is None:
        return ""
    assert 400 <= answer.status < 500, answer
    assert answer.headers.get("connection") == "close"
    assert wire.closed()
    return answer.code()


@pytest.mark.parametrize("name", BAD_FRAMING)
def test_bad_framing_reaches_no_engine(front: Running, worker: Engine, name: str) -> None:
    before = len(worker.seen)
    lines, body = BAD_FRAMING[name]
    with Wire(front) as wire:
        wire.send(wire.head(*lines) + body)
        code = refused(wire)

    assert code in ("", "invalid_request", "request_too_large")
    assert len(worker.seen) == before


def test_a_folded_header_is_refused_or_one_line(front: Running, worker: Engine) -> None:
    with Wire(front) as wire:
        wire.send(wire.request(HI, "traceparent: one", "\ttwo"))
        answer = wire.answer()

    if answer is not None and answer.status == 200:
        assert "\n" not in worker.seen[-1].headers.get("traceparent", "")
    else:
        assert answer is None or answer.code() == "invalid_request"


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_told_so(front: Running, name: str) -> None:
    with Wire(front, stranger=True) as wire:
        wire.send(NO_HTTP[name])
        code = refused(wire)

    stranger = ("invalid_api_key", "unproved_connection")
    assert code in ("", "invalid_request", "unknown_url", "method_not_allowed", *stranger)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"2\r\n{}\r\n0\r\nx-a: ", b"a" * 65536),
        (b"0\r\n", b"a" * 65536),
        (b"0\r\n", b"x-a: b\r\n" * 8192),
        (b"2;x=", b"a" * 65536),
        (b"2\r\n{}\r\n2;x=", b"a" * 65536),
    ],
    ids=["trailer", "name of a trailer", "trailers", "extension", "second extension"],
)
def test_bytes_beside_a_body_have_bounds(
    front: Running, worker: Engine, start: bytes, piece: bytes
) -> None:
    """The parser keeps a trailer in memory until its end, which need not come."""
    before = len(worker.seen)
    with Wire(front) as wire:
        wire.send(wire.head("transfer-encoding: chunked") + start)
        wire.pour(piece, 512)
        code = refused(wire)

    assert code == "headers_too_large"
    assert len(worker.seen) == before


def test_bytes_beside_an_upload_have_bounds(gateway_only: Running) -> None:
    lines = ("transfer-encoding: chunked", "content-type: multipart/form-data; boundary=x")
    with Wire(gateway_only) as wire:
        wire.send(wire.head(*lines, path="/v1/files") + b"0\r\nx-a: ")
        wire.pour(b"a" * 65536, 512)
        code = refused(wire)

    assert code == "headers_too_large"


def test_a_body_of_many_small_chunks_with_extensions_and_trailers_is_read(
    front: Running, worker: Engine
) -> None:
    """Each within the bounds, and far beyond them together."""
    pieces = [HI[at : at + 1] for at in range(len(HI))]
    chunks = b"".join(b"1;x=%s\r\n%s\r\n" % (b"y" * 4000, piece) for piece in pieces)
    with Wire(front) as wire:
        wire.send(wire.head("transfer-encoding: chunked") + chunks + b"0\r\nx-sum: 1\r\n\r\n")
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200
    assert worker.seen[-1].body


@pytest.mark.parametrize(
    "lines",
    [
        ["x-a: " + "a" * 1_000_000],
        [f"x-{n}: {'a' * 100}" for n in range(10_000)],
        [f"x-{n}: y" for n in range(1000)],
    ],
    ids=["one huge", "many", "many small"],
)
def test_a_head_has_bounds(front: Running, worker: Engine, lines: list[str]) -> None:
    before = len(worker.seen)
    with Wire(front) as wire:
        wire.send(wire.request(HI, *lines))
        code = refused(wire)

    assert code in ("", "headers_too_large")
    assert len(worker.seen) == before


def test_a_path_has_bounds(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(wire.request(path="/v1/" + "a" * 1_000_000))

        assert refused(wire) in ("", "headers_too_large")


@pytest.mark.parametrize("path", TRICKS)
def test_only_the_plain_path_is_the_path(front: Running, worker: Engine, path: str) -> None:
    before = len(worker.seen)
    with Wire(front) as wire:
        wire.send(wire.request(path=path))
        answer = wire.answer()

    assert answer is None or answer.status in (400, 404, 405)
    assert answer is None or answer.code()
    assert len(worker.seen) == before


def test_a_query_and_an_absolute_url_are_the_same_path(front: Running, worker: Engine) -> None:
    for path in (f"{CHAT}?a=b", f"{CHAT}?", f"http://gateway{CHAT}"):
        with Wire(front) as wire:
            wire.send(wire.request(path=path))
            answer = wire.answer()
        assert answer is not None, path
        assert answer.status == 200, (path, answer)
        assert worker.seen[-1].path == CHAT


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "GET"])
def test_another_method_is_refused_and_the_connection_lives(front: Running, method: str) -> None:
    with Wire(front) as wire:
        wire.send(wire.request(b"", method=method))
        answer = wire.answer(bodiless=method == "HEAD")
        assert answer is not None
        assert answer.status in (404, 405)
        wire.send(wire.request())
        after = wire.answer()

    assert after is not None
    assert after.status == 200


def test_nobody_gets_a_tunnel(front: Running) -> None:
    with Wire(front) as wire:
        wire.send(wire.head(method="CONNECT", path="127.0.0.1:22"))
        answer = wire.answer()

    assert answer is None or (400 <= answer.status < 500 and answer.code())


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_is_not_taken(front: Running, upgrade: str) -> None:
    lines = ["connection: upgrade, http2-settings", f"upgrade: {upgrade}", "http2-settings: AAMA"]
    with Wire(front) as wire:
        wire.send(wire.request(HI, *lines))
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200, answer


NO_QUESTION = {
    "empty": b"",
    "spaces": b"  \n ",
    "words": b"hello",
    "cut": b'{"model": "m", "messages": [',
    "a list": b'[{"model": "m"}]',
    "null": b"null",
    "not UTF-8": b'{"model": "m\xff"}',
    "not UTF-8 elsewhere": b'{"model": "m", "user": "\xff\xfe"}',
    "UTF-16": json.dumps({"model": "m"}).encode("utf-16"),
    "half a surrogate": b'{"model": "\\ud800"}',
    "deep": b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep and open": b'{"a":' * 100_000,
    "a model of numbers": b'{"model": 5}',
    "a model of nothing": b'{"model": ""}',
    "a long model": b'{"model": "' + b"m" * 100_000 + b'"}',
    "trailing": b'{"model": "m"} {"model": "m"}',
    "not a number": b'{"model": "m", "max_tokens": 1e}',
}


@pytest.mark.parametrize("name", NO_QUESTION)
def test_what_asks_nothing_is_told_so(gateway_only: Running, name: str) -> None:
    with Wire(gateway_only) as wire:
        wire.send(wire.request(NO_QUESTION[name]))
        answer = wire.answer()
        assert answer is not None
        assert answer.status in (400, 404), answer
        assert len(answer.body) < 2000
        wire.send(wire.request())
        after = wire.answer()

    assert after is not None
    assert after.status == 200


def test_the_model_that_is_checked_is_the_model_that_the_engine_reads(
    gateway_only: Running, worker: Engine
) -> None:
    before = len(worker.seen)
    with Wire(gateway_only) as wire:
        wire.send(wire.request(b'{"model": "m", "model": "other"}'))
        other = wire.answer()
        wire.send(wire.request(b'{"model": "other", "model": "m"}'))
        ours = wire.answer()

    assert other is not None
    assert other.code() == "model_not_found"
    assert ours is not None
    assert ours.status == 200
    assert [seen.body["model"] for seen in worker.seen[before:]] == ["m"]


def test_a_body_needs_no_content_type(front: Running, worker: Engine) -> None:
    with Wire(front) as wire:
        wire.send(wire.request())
        answer = wire.answer()

    assert answer is not None
    assert answer.status == 200
    assert worker.seen[-1].headers["content-type"] == "application/json"
