"""The gateway's request handler: authentication, limits, routing, and the choice of a replica."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.auth import rate_limits
from gateway_lite.catalog.models import not_ready
from gateway_lite.catalog.replica import NoReplicaError
from gateway_lite.features import tracing
from gateway_lite.features.ollama import requests as ollama_requests
from gateway_lite.features.ollama.answers import error_body
from gateway_lite.features.pipeline import FeaturePipeline
from gateway_lite.request.context import refusal
from gateway_lite.routing import model_rules
from gateway_lite.routing.replica_state import RequestCost
from gateway_lite.telemetry.request_record import bearer
from gateway_lite.upstream import request_head
from gateway_lite.wire import request_body, response_head
from hpc.gateway_policy import GatewayPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.auth.client_keys import ClientKeys
    from gateway_lite.auth.rate_limits import Limits
    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.catalog.watcher import Watcher
    from gateway_lite.features.cors import Cors
    from gateway_lite.features.tracing import Tracer
    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.exchange import Exchange
    from gateway_lite.routing.balancer import Balancer
    from gateway_lite.routing.replica_state import Lease, QueuedRequest
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.observer import RequestObserver
    from gateway_lite.upstream.connection import UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Pool, Upstream
    from gateway_lite.wire.write_batching import WriteBatcher

RETRY_SHARE = 0.2
"""Retries earned by each request."""
RETRIES_PER_S = 10.0
MOST_RETRIES = 500.0
"""Retries that may be saved up; a dying replica fails all its requests in progress at once."""


class RetryBudget:
    """The retries that are left."""

    def __init__(self) -> None:
        self._left = MOST_RETRIES

    def deposit(self) -> None:
        """Add the share of one request."""
        if self._left < MOST_RETRIES:
            self._left += RETRY_SHARE

    def passed(self, seconds: float) -> None:
        """Add the retries of passed seconds."""
        self._left = min(MOST_RETRIES, self._left + RETRIES_PER_S * seconds)

    def withdraw(self) -> bool:
        """Take a retry; return False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


OK = 200
EVENTS = b"text/event-stream; charset=utf-8"


class GatewayHandler:
    """The handler of clients' requests.

    Args:
        catalog: returns the current catalog, or raises an ApiError.
        keys: the clients' keys.
        limits: limits of the keys.
        balancer: the choice of replicas.
        upstream: connections to replicas.
        watcher: reads a refused secret again.
        seen: observer of every request.
        in_flight: counter of requests in progress.
        batcher: the write batcher.
        settings: timeouts and bounds.
    """

    def __init__(  # noqa: PLR0913 - the parts of a gateway meet here
        self,
        *,
        catalog: Callable[[], Catalog],
        keys: ClientKeys,
        limits: Limits,
        balancer: Balancer,
        upstream: Upstream,
        watcher: Watcher,
        seen: RequestObserver,
        in_flight: InFlight,
        batcher: WriteBatcher,
        settings: GatewaySettings,
    ) -> None:
        self.in_flight = in_flight
        self.batcher = batcher
        self.settings = settings
        self.cors: Cors | None = None
        self.tracer: Tracer | None = None
        self._catalog = catalog
        self._keys = keys
        self._limits = limits
        self._balancer = balancer
        self._upstream = upstream
        self._watcher = watcher
        self._seen = seen
        self._policy = GatewayPolicy()
        self._table = model_rules.Table(self._policy, ())
        self._extras = FeaturePipeline(self._policy)
        self._plain = True
        self._ways: dict[tuple[str, str], tuple[Pool, bytes]] = {}
        self._budget = RetryBudget()
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Drop the prepared request heads, as the replicas have changed."""
        self._ways.clear()

    def adopt(self, policy: GatewayPolicy, table: model_rules.Table) -> None:
        """Handle requests by a new policy and routing table from now on."""
        self._table = table
        if policy != self._policy:
            self._policy = policy
            self._extras = FeaturePipeline(policy)
            self._plain = policy.cache is None and policy.redact is None

    def check(self, exchange: Exchange) -> None:
        """Check the client's key, and refuse an announced body above the limit."""
        record = exchange.record
        self._seen.begin(record)
        if self.in_flight.draining:
            raise errors.draining()
        token = bearer(exchange.request.headers.get(b"authorization", b""))
        principal = exchange.principal = self._keys.find(token)
        if principal is None:
            raise errors.unauthorized()
        record.key = principal.name
        if exchange.request.too_large:
            raise errors.too_large(self.settings.body_bytes)

    def admit(self, exchange: Exchange) -> None:
        """Decode the request, choose the models, and reserve tokens."""
        exchange.body = exchange.request.body
        if exchange.path in ollama_requests.PATHS:
            self._translate(exchange)
        asked = exchange.ask = request_body.read(exchange.body)
        principal, record, table = exchange.principal, exchange.record, self._table
        record.model = asked.model
        prompt, longest = len(exchange.body) // request_body.BYTES_PER_TOKEN, asked.limit()
        traits = model_rules.Traits(record.key, exchange.request.headers, prompt, longest)
        models = model_rules.chosen(table, principal.allows, asked.model, traits)
        exchange.models = models
        record.model = models[0]
        own, limits = table.policies.get(models[0]), principal.limits
        # The engine, not the gateway, cuts the answer: without ``max_tokens`` it would not know the
        # ceiling.
        most = rate_limits.missing_max_tokens(exchange.path, prompt, longest, own, limits)
        if most is not None:
            exchange.body = model_rules.with_fields(exchange.body, max_tokens=most)
        tokens = asked.tokens(len(exchange.body), longest)
        exchange.work = RequestCost(tokens, *self._beginnings(exchange, asked))
        # After all checks of the request: a refused request must not use up the key's limits.
        exchange.reservation = self._limits.reserve(principal, tokens)
        self._budget.deposit()
        if self.tracer is not None:
            tracing.begin(self.tracer, exchange)
        # The common request has no extra feature and skips the preparation as a whole.
        counted = principal.limits is not None and asked.stream
        if counted or not self._plain or exchange.extra is not None:
            self._prepare(exchange)

    def _translate(self, exchange: Exchange) -> None:
        """Replace a request in Ollama's form by its translation into OpenAI's form."""
        translated = ollama_requests.translate(exchange.path, exchange.body)
        exchange.path, exchange.body = translated.path, translated.body
        self._extras.translate(exchange, translated)

    def _prepare(self, exchange: Exchange) -> None:
        """Apply the optional features; the cache or a translation may already give the answer."""
        extra = exchange.extra
        translated = None if extra is None else extra.translated
        if translated is not None and translated.answer is not None:
            kind = b"content-type: %b\r\n" % translated.content_type
            exchange.answer(OK, kind + self.lines(exchange), translated.answer)
            return
        model = self._catalog().models.get(exchange.models[0])
        identity = "" if model is None else model.identity
        counted = exchange.principal.limits is not None
        hit = self._extras.prepare(exchange, identity, counted=counted)
        if exchange.extra is not None and exchange.extra.miss is not None:
            exchange.notes = b"x-gateway-cache: miss\r\n"
        if hit is not None:
            events = exchange.ask is not None and exchange.ask.stream
            kind = b"content-type: %b\r\n" % (EVENTS if events else response_head.JSON)
            exchange.notes = b"x-gateway-cache: hit\r\n"
            exchange.answer(OK, kind + self.lines(exchange), hit.body)

    def _beginnings(
        self, exchange: Exchange, asked: request_body.RequestFields
    ) -> tuple[bytes, bytes]:
        """Return the affinity keys of a request; empty with a single replica."""
        if not self._balancer.several(exchange.models[0]):
            return b"", b""
        headers = exchange.request.headers
        session = model_rules.session_of(headers, asked.user, asked.prompt_cache_key)
        return request_body.beginnings(asked, session)

    def place(self, exchange: Exchange) -> Lease | None:
        """Return a lease at a replica of the model or a fallback, or None without a free slot."""
        asked = exchange.ask or request_body.RequestFields()
        while True:
            name = exchange.models[exchange.turn]
            try:
                lease = self._balancer.place(name, exchange.work, exchange.tried)
            except (NoReplicaError, errors.ApiError) as error:
                if self._fall_back(exchange):
                    continue
                if isinstance(error, errors.ApiError):
                    raise
                model = self._catalog().models.get(exchange.models[0])
                raise not_ready(asked.model, model, time.time()) from None
            if name != asked.model:
                self._rename(exchange, asked, name)
            return lease

    def _fall_back(self, exchange: Exchange) -> bool:
        """Turn to the next fallback model; return False without any."""
        if exchange.turn + 1 >= len(exchange.models):
            return False
        exchange.turn += 1
        if exchange.extra is not None:
            # Another model's answer must not be cached under the requested model.
            exchange.extra.miss = None
        exchange.notes = b""
        return True

    def _rename(self, exchange: Exchange, asked: request_body.RequestFields, name: str) -> None:
        """Change the request's model, and apply the new model's ceilings."""
        own, limits = self._table.policies.get(name), exchange.principal.limits
        most = rate_limits.missing_max_tokens(exchange.path, 0, asked.limit(), own, limits)
        length = {} if most is None else {"max_tokens": most}
        exchange.body = model_rules.with_fields(exchange.body, model=name, **length)
        exchange.record.model = name
        exchange.notes += b"x-gateway-model: %b\r\n" % name.encode()

    def wait(self, exchange: Exchange, done: Callable[[Lease | Exception], None]) -> QueuedRequest:
        """Queue the request for a slot."""
        name = exchange.models[exchange.turn]
        return self._balancer.wait(name, exchange.work, exchange.tried, done)

    def send(
        self, exchange: Exchange, replica: Replica, *, fresh: bool
    ) -> UpstreamConnection | PendingConnection:
        """Send the request, with the replica's secret in place of the client's key."""
        path = exchange.path
        # Request line, host and secret are the same for all requests of a replica and path.
        way = self._ways.get((replica.key, path))
        if way is None:
            way = self._ways[replica.key, path] = self._way(replica, path)
        pool, fixed = way
        name, body = exchange.record.name.encode(), exchange.body
        head = request_head.request_head(fixed, exchange.request.headers, name, len(body))
        return self._upstream.send(pool, exchange, head, body, fresh=fresh)

    def _way(self, replica: Replica, path: str) -> tuple[Pool, bytes]:
        pool = self._upstream.pool(replica.url)
        return pool, request_head.request_start("POST", pool.target, path, replica.secret)

    def another(self, exchange: Exchange, *, worked: bool, elsewhere: bool) -> bool:
        """Return whether another attempt is safe and useful, and charge the retry budget."""
        model = exchange.models[exchange.turn]
        if elsewhere and not self._balancer.others(model, exchange.tried):
            return not (worked and exchange.replayed) and self._fall_back(exchange)
        # A request that an engine may have worked on is sent again at most once.
        if (worked and exchange.replayed) or not self._budget.withdraw():
            return False
        exchange.replayed = exchange.replayed or worked
        return True

    def look(self, passed_s: float) -> None:
        """Add passed time to the retry budget."""
        self._budget.passed(passed_s)

    def renew(self, exchange: Exchange, replica: Replica) -> None:
        """Read the replica's secret again and retry, at most once per request."""
        if exchange.renewed:
            raise errors.upstream_error(f"the replica {replica.name} refuses the gateway's secret")
        exchange.renewed = True
        task = asyncio.get_running_loop().create_task(self._renew(exchange, replica.key))
        # The loop holds tasks weakly; without this reference the task could be collected.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, exchange: Exchange, key: str) -> None:
        await self._watcher.again(refused=key)
        exchange.again()

    def lines(self, exchange: Exchange) -> bytes:
        """Return the gateway's own header lines of an answer."""
        record = exchange.record
        if self.cors is not None:
            exchange.notes += self.cors.lines(exchange.request.headers.get(b"origin"))
        return b"%b%bx-request-id: %b\r\nx-gateway-backend: %b\r\nserver-timing: %b\r\n" % (
            exchange.reservation.headers,
            exchange.notes,
            record.name.encode(),
            record.replica.encode(),
            b"gateway;dur=%.3f, queue;dur=%.3f" % (record.overhead_s * 1000, record.queue_s * 1000),
        )

    def refusal(self, error: errors.ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return the header lines and body of an error, in the client's form."""
        lines, body = refusal(error, exchange)
        if exchange.record.path in ollama_requests.PATHS:
            body = error_body(error.message)
        if self.cors is not None:
            lines += self.cors.lines(exchange.request.headers.get(b"origin"))
        return lines, body

    def finished(self, exchange: Exchange) -> None:
        """Record the end of a request, and settle its reservation."""
        record = exchange.record
        self._seen.end(record)
        if exchange.span is not None:
            tracing.end(exchange)
        if exchange.reservation is not None:
            exchange.reservation.settle(record.charged(exchange.reservation.tokens))
