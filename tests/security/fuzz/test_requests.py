"""Requests of any form at a running gateway: an answer or a close, no 5xx, no secret in a log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, Running, run_gateway
from tests.contract.gateway.wire import Answer, Wire, unharmed
from tests.security.fuzz.budget import fuzzing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank"),
    *("/v1/files", "/v1/batches", "/v1/models", "/v1/models/m", "/api/chat", "/api/generate"),
    *("/v1/messages", "/v1/messages/count_tokens"),
    *("/api/show", "/api/embed", "/metrics", "/dashboard/data", "/healthz", "/version", "/"),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["m", "M", "user", "\ud800", "\0", 10**400, -1, 1e308, "9" * 5000])
)
NAMES = st.sampled_from(
    (
        *(*BODY, "role", "content", "max_tokens", "n", "stream", "stream_options", "prompt"),
        *("input", "options", "tools", "purpose", "input_file_id", "endpoint"),
    )
) | st.text(max_size=6)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
HEADER = st.tuples(
    st.sampled_from(
        (
            *("x-request-id", "traceparent", "accept", "content-type", "origin", "host", "x-a"),
            *("cookie", "range", "te", "connection", "x-session-id", "sec-fetch-site"),
        )
    ),
    st.text(
        st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40
    ),
).map(": ".join)


class FuzzedGateway:
    """A gateway that stands through a module, with all that it wrote down."""

    def __init__(self, front: Running, home: Path) -> None:
        self.front = front
        self.home = home

    def ask(self, method: str, path: str, body: bytes, headers: list[str]) -> Answer | None:
        """Return the answer to one request on a connection of its own."""
        with Wire(self.front, 60) as wire:
            wire.send(wire.request(body, *headers, method=method, path=path))
            return wire.answer(bodiless=method == "HEAD")

    def check(self, answer: Answer | None) -> None:
        """Check that the gateway did not fail inside; the engine's own failures are passed on."""
        assert self.front.process.poll() is None
        assert answer is None or b'"code":"internal"' not in answer.body, answer


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedGateway]:
    """Run a gateway, and look at its logs after all requests."""
    folder = tmp_path_factory.mktemp("fuzz")
    home = directory.home(str(folder / "home"))
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as front:
        yield FuzzedGateway(front, home)
        unharmed(front)
    secret = front.key.encode()
    for log in (front.log, *home.glob("gateways/*/access*.log")):
        text = log.read_bytes()
        assert b"Traceback" not in text, text[-4000:]
        assert secret not in text
        if log.name.startswith("access"):
            for line in text.splitlines():
                json.loads(line)


@fuzzing
@given(st.sampled_from(PATHS), VALUES, st.lists(HEADER, max_size=3))
def test_bodies_of_json(fuzzed: FuzzedGateway, path: str, value: Any, headers: list[str]) -> None:
    if isinstance(value, dict) and "model" not in value:
        value = {"model": "m", **value}
    fuzzed.check(fuzzed.ask("POST", path, json.dumps(value).encode(), headers))


@fuzzing
@given(st.sampled_from(PATHS), st.data())
def test_sound_bodies_with_a_changed_byte(
    fuzzed: FuzzedGateway, path: str, data: st.DataObject
) -> None:
    whole = json.dumps({**BODY, "prompt": "a", "input": "b", "stream": False, "n": 1}).encode()
    at, length = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 5))
    body = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + length :]
    fuzzed.check(fuzzed.ask("POST", path, body, []))


@fuzzing
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]),
    st.sampled_from(PATHS),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
    st.lists(HEADER, max_size=6),
)
def test_methods_urls_and_headers(
    fuzzed: FuzzedGateway, method: str, path: str, tail: str, headers: list[str]
) -> None:
    fuzzed.check(fuzzed.ask(method, path + tail, b"", headers))


@fuzzing
@given(st.binary(max_size=400))
def test_bytes_that_are_no_request(fuzzed: FuzzedGateway, data: bytes) -> None:
    with Wire(fuzzed.front, 60) as wire:
        wire.send(data + b"\r\n\r\n")
        wire.sock.shutdown(1)
        fuzzed.check(wire.answer())
