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
from gateway_lite.features.pipeline import FeaturePipeline, FeatureRequest
from gateway_lite.request.context import Reply, refusal
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
    from gateway_lite.auth.web_pages import WebPageGuard
    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.catalog.watcher import Watcher
    from gateway_lite.features.cors import Cors
    from gateway_lite.features.ollama.requests import Translated
    from gateway_lite.features.tracing import Span, Tracer
    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.context import RequestContext
    from gateway_lite.routing.balancer import Balancer
    from gateway_lite.routing.replica_state import Lease, QueuedRequest
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.observer import RequestObserver
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.upstream.connection import ResponseSink, UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Pool, Upstream
    from gateway_lite.wire.request_body import RequestFields
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
        cors: origins of web pages that may ask; None lets none.
        tracer: makes a span of each request, or None.
        guard: check of requests without a key, where such requests are served; None checks nothing.
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
        cors: Cors | None = None,
        tracer: Tracer | None = None,
        guard: WebPageGuard | None = None,
    ) -> None:
        self.in_flight = in_flight
        self.batcher = batcher
        self.settings = settings
        self._cors = cors
        self._tracer = tracer
        self._guard = guard
        self._catalog = catalog
        self._keys = keys
        self._limits = limits
        self._balancer = balancer
        self._upstream = upstream
        self._watcher = watcher
        self._seen = seen
        self._policy = GatewayPolicy()
        self._table = model_rules.Table(self._policy, ())
        self._features = FeaturePipeline(self._policy)
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
            self._features = FeaturePipeline(policy)
            self._plain = policy.cache is None and policy.redact is None

    def check(self, context: RequestContext) -> None:
        """Check the client's key, and refuse an announced body above the limit."""
        record = context.record
        self._seen.begin(record)
        if self.in_flight.draining:
            raise errors.draining()
        request = context.request
        token = bearer(request.headers.get(b"authorization", b""))
        if self._guard is not None and not token:
            method = request.method.decode()
            self._guard.check(method, request.path, request.headers, context.client.server)
        principal = context.principal = self._keys.find_for_inference(token)
        if principal is None:
            raise errors.unauthorized()
        record.key = principal.name
        if request.too_large:
            raise errors.too_large(self.settings.body_bytes)

    def admit(self, context: RequestContext) -> Reply | None:
        """Decode the request, choose the models, and reserve tokens."""
        context.body = context.request.body
        translated = None
        if context.path in ollama_requests.PATHS:
            translated = ollama_requests.translate(context.path, context.body)
            context.path, context.body = translated.path, translated.body
        asked = context.ask = request_body.read(context.body)
        principal, record, table = context.principal, context.record, self._table
        record.model = asked.model
        prompt, longest = len(context.body) // request_body.BYTES_PER_TOKEN, asked.limit()
        traits = model_rules.Traits(record.key, context.request.headers, prompt, longest)
        models = model_rules.chosen(table, principal.allows, asked.model, traits)
        context.models = models
        record.model = models[0]
        own, limits = table.policies.get(models[0]), principal.limits
        # The engine, not the gateway, cuts the answer: without ``max_tokens`` it would not know the
        # ceiling.
        most = rate_limits.missing_max_tokens(context.path, prompt, longest, own, limits)
        if most is not None:
            context.body = model_rules.with_fields(context.body, max_tokens=most)
        tokens = asked.tokens(len(context.body), longest)
        context.work = RequestCost(tokens, *self._beginnings(context, asked))
        # After all checks of the request: a refused request must not use up the key's limits.
        context.reservation = self._limits.reserve(principal, tokens)
        self._budget.deposit()
        if self._tracer is not None:
            self._begin_span(self._tracer, context, asked)
        # The common request has no extra feature and skips the preparation as a whole.
        counted = principal.limits is not None and asked.stream
        if counted or not self._plain or translated is not None:
            return self._prepare(context, asked, translated)
        return None

    def _begin_span(self, tracer: Tracer, context: RequestContext, asked: RequestFields) -> None:
        """Begin the span, and pass its context to the replica in place of the client's."""
        given = context.request.headers
        context.span = tracer.begin(
            context.record.path,
            asked.model,
            traceparent=given.get(b"traceparent"),
            tracestate=given.get(b"tracestate"),
            stream=bool(asked.stream),
            max_tokens=asked.limit(),
            request_id=context.record.name,
        )
        context.request.headers = tracing.for_engine(context.span, given)

    def _prepare(
        self, context: RequestContext, fields: RequestFields, translated: Translated | None
    ) -> Reply | None:
        """Apply the optional features; the cache or a translation may already give the answer."""
        if translated is not None and translated.answer is not None:
            kind = b"content-type: %b\r\n" % translated.content_type
            return Reply(OK, kind + self.lines(context), translated.answer)
        model = self._catalog().models.get(context.models[0])
        principal = context.principal
        asked = FeatureRequest(
            context.path,
            fields,
            context.models[0],
            identity="" if model is None else model.identity,
            key_id=principal.id,
            counted=principal.limits is not None,
        )
        prepared = self._features.prepare(context.body, asked, translated)
        context.body, context.edits = prepared.body, prepared.edits
        context.record.cache = context.cache = prepared.cache
        if prepared.hit is None:
            return None
        kind = b"content-type: %b\r\n" % (EVENTS if fields.stream else response_head.JSON)
        return Reply(OK, kind + self.lines(context), prepared.hit.body)

    def _beginnings(self, context: RequestContext, asked: RequestFields) -> tuple[bytes, bytes]:
        """Return the affinity keys of a request; empty with a single replica."""
        if not self._balancer.several(context.models[0]):
            return b"", b""
        headers = context.request.headers
        session = model_rules.session_of(headers, asked.user, asked.prompt_cache_key)
        return request_body.beginnings(asked, session)

    def place(self, context: RequestContext) -> Lease | None:
        """Return a lease at a replica of the model or a fallback, or None without a free slot."""
        asked = context.ask or request_body.RequestFields()
        while True:
            name = context.models[context.turn]
            try:
                lease = self._balancer.place(name, context.work, context.tried)
            except (NoReplicaError, errors.ApiError) as error:
                if self._fall_back(context):
                    continue
                if isinstance(error, errors.ApiError):
                    raise
                model = self._catalog().models.get(context.models[0])
                raise not_ready(asked.model, model, time.time()) from None
            context.substitute = ""
            if name != asked.model:
                self._rename(context, asked, name)
            return lease

    def _fall_back(self, context: RequestContext) -> bool:
        """Turn to the next fallback model; return False without any."""
        if context.turn + 1 >= len(context.models):
            return False
        context.turn += 1
        # Another model's answer must not be cached under the requested model.
        context.cache = ""
        if context.edits is not None:
            context.edits.miss = None
        return True

    def _rename(self, context: RequestContext, asked: RequestFields, name: str) -> None:
        """Change the request's model, and apply the new model's ceilings."""
        own, limits = self._table.policies.get(name), context.principal.limits
        most = rate_limits.missing_max_tokens(context.path, 0, asked.limit(), own, limits)
        length = {} if most is None else {"max_tokens": most}
        context.body = model_rules.with_fields(context.body, model=name, **length)
        context.record.model = name
        context.substitute = name

    def wait(
        self, context: RequestContext, done: Callable[[Lease | Exception], None]
    ) -> QueuedRequest:
        """Queue the request for a slot."""
        name = context.models[context.turn]
        return self._balancer.wait(name, context.work, context.tried, done)

    def send(
        self, context: RequestContext, replica: Replica, sink: ResponseSink, *, fresh: bool
    ) -> UpstreamConnection | PendingConnection:
        """Send the request, with the replica's secret in place of the client's key."""
        path = context.path
        # Request line, host and secret are the same for all requests of a replica and path.
        way = self._ways.get((replica.key, path))
        if way is None:
            way = self._ways[replica.key, path] = self._way(replica, path)
        pool, fixed = way
        name, body = context.record.name.encode(), context.body
        head = request_head.request_head(fixed, context.request.headers, name, len(body))
        return self._upstream.send(pool, sink, head, body, fresh=fresh)

    def _way(self, replica: Replica, path: str) -> tuple[Pool, bytes]:
        pool = self._upstream.pool(replica.url)
        return pool, request_head.request_start("POST", pool.target, path, replica.secret)

    def another(self, context: RequestContext, *, worked: bool, elsewhere: bool) -> bool:
        """Return whether another attempt is safe and useful, and charge the retry budget."""
        model = context.models[context.turn]
        if elsewhere and not self._balancer.others(model, context.tried):
            return not (worked and context.replayed) and self._fall_back(context)
        # A request that an engine may have worked on is sent again at most once.
        if (worked and context.replayed) or not self._budget.withdraw():
            return False
        context.replayed = context.replayed or worked
        return True

    def look(self, passed_s: float) -> None:
        """Add passed time to the retry budget."""
        self._budget.passed(passed_s)

    def renew(self, context: RequestContext, replica: Replica, done: Callable[[], None]) -> None:
        """Read the replica's secret again, at most once per request, then call ``done``."""
        if context.renewed:
            raise errors.upstream_error(f"the replica {replica.name} refuses the gateway's secret")
        context.renewed = True
        task = asyncio.get_running_loop().create_task(self._renew(replica.key, done))
        # The loop holds tasks weakly; without this reference the task could be collected.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, key: str, done: Callable[[], None]) -> None:
        await self._watcher.again(refused=key)
        done()

    def lines(self, context: RequestContext) -> bytes:
        """Return the gateway's own header lines of an answer, as a function of the context alone.

        Each attempt asks for the lines anew: a line that one attempt appended to the context would
        be sent twice after a failover.
        """
        record, notes = context.record, b""
        if context.cache:
            notes = b"x-gateway-cache: %b\r\n" % context.cache.encode()
        if context.substitute:
            notes += b"x-gateway-model: %b\r\n" % context.substitute.encode()
        if self._cors is not None:
            notes += self._cors.lines(context.request.headers.get(b"origin"))
        return b"%b%bx-request-id: %b\r\nx-gateway-backend: %b\r\nserver-timing: %b\r\n" % (
            context.reservation.headers,
            notes,
            record.name.encode(),
            record.replica.encode(),
            b"gateway;dur=%.3f, queue;dur=%.3f" % (record.overhead_s * 1000, record.queue_s * 1000),
        )

    def refusal(self, error: errors.ApiError, context: RequestContext) -> tuple[bytes, bytes]:
        """Return the header lines and body of an error, in the client's form."""
        lines, body = refusal(error, context)
        if context.record.path in ollama_requests.PATHS:
            body = error_body(error.message)
        if self._cors is not None:
            lines += self._cors.lines(context.request.headers.get(b"origin"))
        return lines, body

    def finished(self, context: RequestContext) -> None:
        """Record the end of a request, and settle its reservation."""
        record = context.record
        self._seen.end(record)
        if context.span is not None:
            _end_span(context.span, record)
        if context.reservation is not None:
            context.reservation.settle(record.charged(context.reservation.tokens))


def _end_span(span: Span, record: RequestRecord) -> None:
    first = record.first_at
    span.end(
        record.status,
        model=record.model or None,
        replica=record.replica or None,
        usage=record.used(),
        first_s=None if first is None else first - record.began,
        tries=max(1, record.attempts),
        error=record.error,
    )
