"""A question of the gateway's own: its connection carries no request of anybody else."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway_lite.upstream.connection import UpstreamConnection
from gateway_lite.upstream.fetch import FetchedAnswer, FetchError, fetch

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Transport:
    """A transport that notes its end."""

    def __init__(self) -> None:
        self.ended = False

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.ended

    def is_reading(self) -> bool:
        return not self.ended


class Owner:
    """A pool of one connection, which answers as soon as it is asked."""

    def __init__(self, *answers: bytes) -> None:
        self.busy: set[UpstreamConnection] = set()
        self.batcher = SimpleNamespace(put=lambda *_: None)
        self.target = SimpleNamespace(host_header=b"h", prefix="", path="")
        self.usable: list[bool] = []
        self._answers = answers
        self.link = UpstreamConnection(cast("Any", self))
        self.link.connection_made(cast("Any", Transport()))

    def send(self, _pool: Any, sink: Any, head: bytes, body: bytes, *, fresh: bool) -> Any:
        assert fresh
        self.link.send(sink, head, body)
        for answer in self._answers:
            asyncio.get_running_loop().call_soon(self._come, answer)
        return self.link

    def _come(self, answer: bytes) -> None:
        if not self.link.transport.is_closing():
            self.link.data_received(answer)
        # Here another request could take the connection, before the asking task runs again.
        self.usable.append(self.link not in self.busy and not self.link.transport.is_closing())

    def keep(self, link: UpstreamConnection) -> None:
        pass

    def forget(self, link: UpstreamConnection) -> None:
        pass


def asked(owner: Owner, monkeypatch: pytest.MonkeyPatch, most: int = 100) -> FetchedAnswer:
    """Ask by way of the owner."""
    monkeypatch.setattr("gateway_lite.upstream.request_head.request_start", lambda *_: b"")
    monkeypatch.setattr("gateway_lite.upstream.request_head.request_head", lambda *_: b"GET")

    async def run() -> FetchedAnswer:
        return await fetch(cast("Any", owner), cast("Any", owner), "/v1/models", most=most)

    return asyncio.run(run())


def test_an_answered_connection_can_be_taken_by_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(ANSWER)
    assert asked(owner, monkeypatch).body == b"{}"
    assert owner.usable == [False]


def test_a_connection_with_too_long_an_answer_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner(ANSWER.replace(b"2\r\n\r\n{}", b"9\r\n\r\n12345"), b"6789")
    with pytest.raises(FetchError, match="more than 4 bytes"):
        asked(owner, monkeypatch, most=4)
    assert owner.usable == [False, False]
