"""A batch request to an engine, until its answer or its final failure."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from hpc.batch.input import jsonl
from hpc.batch.ledger.answers import RowAnswer
from hpc.batch.worker.missing_models import LATEST_S, MissingModels
from hpc.gateway import reach
from hpc.gateway.proved_transport import ProvedTransport
from hpc.surrogates import without_halves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from hpc.batch.model import BatchTarget
    from hpc.batch.worker.concurrency import ConcurrencyLimit

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
OVERLOADED = frozenset({429, 503})
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0


class Clients:
    """Connections to a server, as many as requests in flight, each with its own pool.

    httpx searches a pool's connections for every request: with 256 in one pool the search takes
    nine tenths of a worker's time. The client's cookies, redirects and joined addresses take
    another quarter, so this class uses httpx's transports directly.

    Args:
        url: address without ``/v1``.
        headers: headers of every request.
        make: makes one more connection.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], make: Callable[[], httpx.AsyncHTTPTransport]
    ) -> None:
        self._base = httpx.URL(url)
        self._headers = httpx.Headers(headers)
        self._make = make
        self._urls: dict[str, httpx.URL] = {}
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def post(
        self, path: str, content: bytes, connect_s: float | None = None
    ) -> httpx.Response:
        """Send a request over the most recently used connection, and return the complete answer.

        Args:
            path: path below the server's address.
            content: the body.
            connect_s: seconds for a new connection, if one is needed.

        Raises:
            httpx.RequestError: no answer arrived.
        """
        request = httpx.Request("POST", self._url(path), headers=self._headers, content=content)
        request.extensions["timeout"] = {"connect": connect_s}
        # The last one used is the least likely to have been closed by the server meanwhile.
        transport = self._idle.pop() if self._idle else self._make()
        try:
            answer = await transport.handle_async_request(request)
            try:
                await answer.aread()
            finally:
                await answer.aclose()
        finally:
            self._idle.append(transport)
        return answer

    def _url(self, path: str) -> httpx.URL:
        if path not in self._urls:
            base = self._base.path.rstrip("/")
            self._urls[path] = self._base.copy_with(path=base + path)
        return self._urls[path]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._idle:
            await transport.aclose()


def open_clients(target: BatchTarget) -> Clients:
    """Return the connections of a worker to the server of a batch."""
    # Reading the certificates of authorities costs megabytes for each connection.
    verify = httpx.create_ssl_context() if target.url.startswith("https:") else False
    headers = {"content-type": "application/json", "user-agent": "hpc-serve"}
    if target.key:
        headers["authorization"] = f"Bearer {target.key}"
    if target.home is not None:
        find = partial(reach.here, Path(target.home))
        return Clients(target.url, headers, partial(ProvedTransport, find))
    make = partial(httpx.AsyncHTTPTransport, uds=target.socket, verify=verify)
    return Clients(target.url, headers, make)


@dataclass(slots=True)
class WorkerCounts:
    """A worker's counts of outcomes."""

    good: int = 0
    failed: int = 0
    retried: int = 0
    tokens: int = 0


class Sender:
    """The sender of requests, with counts of their outcomes.

    Args:
        clients: connections to the engine.
        pace: concurrency limit, informed of answers and refusals.
        timeout_s: seconds for one try.
        retries: further tries of a request.
        away: record of missing models.
    """

    def __init__(
        self,
        clients: Clients,
        pace: ConcurrencyLimit,
        *,
        timeout_s: float,
        retries: int,
        away: MissingModels | None = None,
    ) -> None:
        self._clients = clients
        self._pace = pace
        self._timeout_s = timeout_s
        self._retries = retries
        self._away = away or MissingModels()
        self._lost_at: float | None = None
        self.counts = WorkerCounts()
        self.waiting = 0

    async def send(self, row: int, line: bytes) -> RowAnswer:
        """Send a request and return its outcome.

        Three failures use up no try: an unreachable engine, which may be restarting; a refusal with
        Retry-After, from a key's limit or a model that is not ready; and a missing model, which a
        user may start again.
        """
        request = json.loads(line)
        body = json.dumps(request["body"], separators=(",", ":")).encode()
        tried = 0
        while True:
            answer, wait_s, reached = await self._try(row, request, body, tried)
            if answer.good or wait_s is None or (reached and tried >= self._retries):
                return self._counted(answer)
            tried += reached
            self.counts.retried += 1
            self.waiting += 1
            try:
                await asyncio.sleep(wait_s)
            finally:
                self.waiting -= 1

    def _counted(self, answer: RowAnswer) -> RowAnswer:
        self.counts.good += answer.good
        self.counts.failed += not answer.good
        return answer

    async def _try(
        self, row: int, request: Mapping[str, Any], body: bytes, tried: int
    ) -> tuple[RowAnswer, float | None, bool]:
        """Return the outcome, the seconds until another try or None, and whether the try counts."""
        custom_id, back_off = request["custom_id"], _back_off(tried)
        try:
            with anyio.fail_after(self._timeout_s):
                got = await self._clients.post(request["url"], body, self._timeout_s / 2)
            self._lost_at = None
        except TimeoutError:
            self._pace.refused(time.monotonic())
            told = f"no answer within {self._timeout_s:g} s"
            return _error(row, custom_id, "timeout", told), back_off, True
        except httpx.ConnectError as error:
            return _error(row, custom_id, "unreachable", str(error)), self._away_s(), False
        except httpx.RequestError as error:
            told = f"the connection broke: {type(error).__name__}"
            return _error(row, custom_id, "connection_error", told), back_off, True
        return self._judge(row, request, got, back_off)

    def _away_s(self) -> float:
        """Return the seconds until another try of an unreachable server, from 1 to 30."""
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        # A quarter of the absence so far: quick after a restart, rare after hours.
        return min(LATEST_S, max(1.0, (now - self._lost_at) / 4)) * random.uniform(0.75, 1)  # noqa: S311

    def _judge(
        self, row: int, request: Mapping[str, Any], got: httpx.Response, back_off: float
    ) -> tuple[RowAnswer, float | None, bool]:
        now, custom_id, parsed = time.monotonic(), request["custom_id"], _json(got)
        away_s = self._away.judge(str(request["body"].get("model")), got, parsed)
        if away_s is not None:
            return _refusal(row, custom_id, got, parsed), away_s * random.uniform(0.5, 1), False  # noqa: S311
        if got.status_code in OVERLOADED:
            self._pace.refused(now)
        if got.status_code != httpx.codes.OK or parsed is None:
            # A 200 without readable JSON is retried too: an engine that died in mid-answer.
            again = got.status_code in RETRIED or got.status_code == httpx.codes.OK
            wait_s = max(back_off, _retry_after(got)) if again and not _in_vain(got) else None
            # A refusal with Retry-After uses up no try: a model in Slurm's queue for hours, or a
            # key with 10 requests a minute, would turn a long batch into errors.
            counts = got.status_code not in OVERLOADED or "retry-after" not in got.headers
            return _refusal(row, custom_id, got, parsed), wait_s, counts
        self._pace.answered(now)
        usage = parsed.get("usage") if isinstance(parsed, dict) else None
        if isinstance(usage, dict):
            made = usage.get("completion_tokens", usage.get("output_tokens"))
            self.counts.tokens += made if isinstance(made, int) else 0
        return RowAnswer(row, True, _line(row, custom_id, got, parsed, None)), None, True


def _back_off(tried: int) -> float:
    # Jitter, so that requests refused together do not all come back at once.
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**tried) * random.uniform(0.5, 1)  # noqa: S311


def _retry_after(got: httpx.Response) -> float:
    told = got.headers.get("retry-after", "")
    return min(float(told), LONGEST_WAIT_S) if told.isdecimal() else 0.0


def _in_vain(got: httpx.Response) -> bool:
    """Return whether waiting is useless, as when a budget is spent."""
    spent = got.status_code == httpx.codes.TOO_MANY_REQUESTS
    return spent and got.headers.get("x-should-retry") == "false"


def _json(got: httpx.Response) -> Any:
    try:
        return None if jsonl.too_deep(got.content) else got.json()
    except (ValueError, RecursionError):
        return None


def _refusal(row: int, custom_id: str, got: httpx.Response, parsed: Any) -> RowAnswer:
    told = parsed if isinstance(parsed, dict) else {}
    said = told.get("error", told.get("message"))
    message = said.get("message") if isinstance(said, dict) else said
    error = {"code": str(got.status_code), "message": str(message or got.text[:500])}
    return RowAnswer(row, False, _line(row, custom_id, got, parsed, error))


def _line(row: int, custom_id: str, got: httpx.Response, parsed: Any, error: Any) -> bytes:
    response = {
        "status_code": got.status_code,
        "request_id": got.headers.get("x-request-id", f"req-{row}"),
        "body": parsed,
    }
    return _output(row, custom_id, response, error)


def _error(row: int, custom_id: str, code: str, message: str) -> RowAnswer:
    error = {"code": code, "message": message}
    return RowAnswer(row, False, _output(row, custom_id, None, error))


def _output(row: int, custom_id: str, response: Any, error: Any) -> bytes:
    line = {
        "id": f"batch_req_{row}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    # Readers of the output may refuse a whole file for one half of a character.
    return without_halves(json.dumps(line, separators=(",", ":")).encode())
