"""The only place that opens upstream connections; passes bytes on as they come."""

from __future__ import annotations

import asyncio
import weakref
from enum import Enum
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from gateway_lite import errors
from gateway_lite.asgi import header

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway_lite.asgi import Scope, Send
    from gateway_lite.settings import Settings

EVENTS = b"text/event-stream"
JSON = b"application/json"
PASSED_ON = (b"content-type", b"accept", b"traceparent", b"tracestate")
"""Headers of a client that engines get; above all not its key."""
PASSED_BACK = (
    "content-encoding",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "openai-processing-ms",
)
"""Headers of an engine's answer that clients get; the rest stays between it and us."""
FAILURES = (aiohttp.ClientError, OSError, asyncio.TimeoutError)


class Fault(Enum):
    """How an upstream failed; decides what may be tried next."""

    UNREACHABLE = "cannot be reached"
    BROKEN = "broke off"
    SILENT = "stays silent"
    TOO_LARGE = "answers with too much"


class UpstreamError(Exception):
    """A replica failed a request.

    Args:
        fault: how it failed.
        detail: the client library's own words, for the log.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault.value}: {detail}")
        self.fault = fault


class Reply:
    """An answer of which the head and the first bytes are here.

    Attributes:
        url: what was asked.
        status: HTTP status.
        kind: the content type.
        first: bytes that came already; all of it for JSON.
    """

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self._connection = response.connection
        self.url = url
        self.status = response.status
        self.kind = response.headers.get("content-type", "application/json").encode("latin-1")
        self.first = b""

    @property
    def streams(self) -> bool:
        """Whether the rest is still to come."""
        return not self.kind.startswith(JSON)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return what of its head the client gets."""
        found = self._response.headers
        passed = [
            (n.encode(), found[n].encode("latin-1", "replace")) for n in PASSED_BACK if n in found
        ]
        if self.kind.startswith(EVENTS):
            passed += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        if not self.streams:
            passed.append((b"content-length", str(len(self.first)).encode()))
        return [(b"content-type", self.kind), *passed]

    async def read(self) -> bytes:
        """Return the bytes that came since, at least one; empty at the end.

        Raises:
            UpstreamError: the connection broke off, or is silent for too long.
        """
        try:
            return await self._response.content.readany()
        except FAILURES as error:
            raise _fault(error) from error

    async def prefetch(self, limit: int) -> None:
        """Wait for the first bytes of a stream, or for all of an answer in JSON.

        Args:
            limit: bytes that an answer in JSON may have.

        Raises:
            UpstreamError: the connection broke off, is silent, or the answer is too large.
        """
        parts = [await self.read()]
        size = len(parts[0])
        while parts[-1] and not self.streams:
            parts.append(await self.read())
            size += len(parts[-1])
            if size > limit:
                raise UpstreamError(Fault.TOO_LARGE, f"more than {limit} bytes")
        self.first = b"".join(parts)

    def retire(self) -> None:
        """Use the connection for nothing more after this answer."""
        protocol = self._connection.protocol if self._connection is not None else None
        if protocol is not None:
            protocol.force_close()

    def close(self) -> None:
        """Close the connection where the answer is not complete: that cancels the work."""
        self._response.close()


class Upstream:
    """Connections to replicas, kept for shorter than the engines keep theirs.

    Args:
        settings: how long to wait and to keep.
        socket: Unix socket that everything goes to; None means TCP, by address.
    """

    def __init__(self, settings: Settings, socket: str | None = None) -> None:
        self._settings = settings
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_s, sock_read=settings.idle_s
        )
        self._kept = self._session(_connector(socket, keep_s=settings.pool_idle_s))
        self._fresh = self._session(_connector(socket, keep_s=None))
        self._under_way: weakref.WeakSet[Reply] = weakref.WeakSet()
        self._served: tuple[str, ...] = ("",)

    def keep(self, addresses: Collection[str]) -> None:
        """Keep connections to these replicas only; what is under way to others still ends well."""
        self._served = tuple(f"{address}/" for address in addresses)
        for reply in list(self._under_way):
            self._retire(reply)

    def _retire(self, reply: Reply) -> None:
        if not reply.url.startswith(self._served):
            reply.retire()

    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        fresh: bool = False,
    ) -> Reply:
        """Send a request, and return its answer when the first bytes are there.

        Args:
            method: HTTP method.
            url: full address, percent-encoded.
            headers: all that it carries beside its length.
            body: the request's bytes.
            fresh: open a new connection, as a kept one has just failed.

        Raises:
            UpstreamError: there is no such answer.
        """
        session = self._fresh if fresh else self._kept
        try:
            response = await session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
            )
        except FAILURES as error:
            raise _fault(error) from error
        reply = Reply(response, url)
        self._retire(reply)
        self._under_way.add(reply)
        try:
            await reply.prefetch(self._settings.body_bytes)
        except BaseException:
            reply.close()
            raise
        return reply

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
        )


def upstream_headers(scope: Scope) -> dict[str, str]:
    """Return what an engine gets of a client's headers, and the request's name."""
    found = {
        name.decode(): value.decode("latin-1")
        for name in PASSED_ON
        if (value := header(scope, name)) is not None
    }
    found.setdefault("content-type", "application/json")
    return {**found, "accept-encoding": "identity", "x-request-id": scope["request_id"].decode()}


async def relay(reply: Reply, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    """Pass an answer on to the client, to its last byte.

    Args:
        reply: the answer.
        send: the client.
        headers: further headers.

    Raises:
        ApiError: the rest did not come.
    """
    start = {"type": "http.response.start", "status": reply.status}
    await send({**start, "headers": [*reply.headers(), *headers]})
    chunk = reply.first
    try:
        while chunk and reply.streams:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = await reply.read()
    except UpstreamError as error:
        raise errors.upstream_error(f"the replica {error.fault.value} in mid-stream") from error
    await send({"type": "http.response.body", "body": chunk, "more_body": False})


def _connector(socket: str | None, *, keep_s: float | None) -> aiohttp.BaseConnector:
    kept: dict[str, float | bool] = (
        {"force_close": True} if keep_s is None else {"keepalive_timeout": keep_s}
    )
    if socket is not None:
        return aiohttp.UnixConnector(socket, limit=0, **kept)  # type: ignore[arg-type]
    return aiohttp.TCPConnector(limit=0, happy_eyeballs_delay=None, **kept)  # type: ignore[arg-type]


def _fault(error: Exception) -> UpstreamError:
    """Translate the client library's errors; a new one counts as broken off."""
    kind = Fault.BROKEN
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        kind = Fault.UNREACHABLE
    elif isinstance(error, asyncio.TimeoutError):
        kind = Fault.SILENT
    return UpstreamError(kind, type(error).__name__)
