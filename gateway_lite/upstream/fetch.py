"""A short request of the gateway's own to a replica, such as one for its models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from gateway_lite.upstream import request_head

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway_lite.upstream.connection import Fault, UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Pool, Upstream

MOST_BYTES = 1024 * 1024
"""Largest answer; lists of models take kilobytes."""
TIME_S = 10.0


class FetchedAnswer(NamedTuple):
    """A complete answer of a replica."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class FetchError(Exception):
    """A request without a complete answer.

    Args:
        fault: kind of the failure; None for an answer that is too large or too late.
        detail: further detail.
    """

    def __init__(self, fault: Fault | None, detail: str) -> None:
        super().__init__(detail if fault is None else f"{fault.value}: {detail}")
        self.fault = fault


class _Collector:
    """The receiver of one answer, collected up to a size."""

    def __init__(self, most: int) -> None:
        self.answer: asyncio.Future[FetchedAnswer] = asyncio.get_running_loop().create_future()
        self._most = most
        self._link: UpstreamConnection | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def on_complete(self, link: UpstreamConnection, body: bytes) -> None:
        self._link = link
        self.on_body(body)
        self.on_end()

    def on_head(self, link: UpstreamConnection) -> None:
        self._link = link

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        self._parts.append(data)
        if self._size > self._most and self._link is not None and not self.answer.done():
            self.answer.set_exception(FetchError(None, f"more than {self._most} bytes"))
            self._link.abort()

    def on_end(self) -> None:
        if self._link is not None and not self.answer.done():
            body = b"".join(self._parts)
            self.answer.set_result(FetchedAnswer(self._link.status, self._link.headers, body))
            # Not kept: a question must not change which connections requests find. And here, in the
            # same turn of the loop: a moment later the connection may carry somebody's request.
            self._link.close()

    def on_error(self, fault: Fault, detail: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(FetchError(fault, detail))


async def fetch(
    upstream: Upstream,
    pool: Pool,
    path: str,
    *,
    method: str = "GET",
    token: str | None = None,
    name: bytes = b"gateway",
    most: int = MOST_BYTES,
) -> FetchedAnswer:
    """Send a request without a body over a new connection, and return the complete answer.

    Args:
        upstream: the connections of all replicas.
        pool: the connections of the replica.
        path: path without the server's prefix.
        method: HTTP method.
        token: bearer token that the server requires, or None.
        name: id of the request.
        most: largest answer in bytes.

    Raises:
        FetchError: no complete answer came within TIME_S.
    """
    start = request_head.request_start(method, pool.target, path, token)
    head = request_head.request_head(start, {}, name, 0)
    sink = _Collector(most)
    link: UpstreamConnection | PendingConnection | None = None
    try:
        # Fresh: a kept connection says nothing of whether the server still takes new ones.
        link = upstream.send(pool, sink, head, b"", fresh=True)
        return await asyncio.wait_for(asyncio.shield(sink.answer), TIME_S)
    except asyncio.TimeoutError:
        raise FetchError(None, f"no answer within {TIME_S:g} s") from None
    finally:
        if link is not None and not sink.answer.done():
            link.abort()
        sink.answer.cancel()
