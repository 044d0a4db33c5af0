"""The gateway's request handler: authentication, limits, routing, and the choice of a replica."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.auth import token_ceilings
from gateway_lite.catalog.models import not_ready
from gateway_lite.catalog.replica import NoReplicaError
from gateway_lite.features import tracing
from gateway_lite.features.anthropic import requests as anthropic_requests
from gateway_lite.features.ollama import requests as ollama_requests
from gateway_lite.features.pipeline import FeaturePipeline, FeatureRequest
from gateway_lite.features.stored_responses import StoredResponses, earlier
from gateway_lite.request import head_checks
from gateway_lite.request.context import Reply, ThreadWork, refusal
from gateway_lite.request.large_requests import LargeRequests
from gateway_lite.request.retry_budget import RetryBudget
from gateway_lite.request.token_charge import charged
from gateway_lite.routing import model_rules
from gateway_lite.routing.replica_state import RequestCost
from gateway_lite.telemetry.request_record import shown_key
from gateway_lite.upstream import request_head
from gateway_lite.wire import (
    body_shape,
    content_coding,
    error_forms,
    form_body,
    prompt_size,
    request_body,
    request_fields,
    response_head,
)
from gateway_lite.wire.body_budget import MIB, SMALL, BodyBudget, budget_bytes
from hpc.api_paths import FORMS, PICTURES, RESPONSES
from hpc.gateway_policy import GatewayPolicy
from hpc.keys.store import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway_lite.auth.client_keys import ClientKeys
    from gateway_lite.auth.rate_limits import Limits
    from gateway_lite.auth.web_pages import WebPageGuard
    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.catalog.watcher import Watcher
    from gateway_lite.features.cors import Cors
    from gateway_lite.features.pipeline import RequestRedaction
    from gateway_lite.features.tracing import Span, Tracer
    from gateway_lite.features.translation import Translated
    from gateway_lite.in_flight import InFlight
    from gateway_lite.request.context import RequestContext
    from gateway_lite.routing.balancer import Balancer
    from gateway_lite.routing.replica_state import Lease, QueuedRequest
    from gateway_lite.settings import GatewaySettings
    from gateway_lite.telemetry.observer import RequestObserver
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.upstream.connection import ResponseSink, UpstreamConnection
    from gateway_lite.upstream.pool import PendingConnection, Pool, Upstream
    from gateway_lite.wire.prompt_size import PromptSize
    from gateway_lite.wire.request_body import RequestFields
    from gateway_lite.wire.request_fields import CheckedFields
    from gateway_lite.wire.write_batching import WriteBatcher
    from hpc.gateway_policy import ModelPolicy

TRANSLATIONS = {
    **dict.fromkeys(ollama_requests.PATHS, ollama_requests.translate),
    **dict.fromkeys(anthropic_requests.PATHS, anthropic_requests.translate),
}
"""The translation into OpenAI's form, by path of another API."""
OK = 200
VLLM = "vllm"
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
        workers: processes that share the memory for bodies.
        guard: check of requests without a key, where such requests are served; None checks nothing.
        stored: the places of stored responses, filled here.
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
        workers: int = 1,
        guard: WebPageGuard | None = None,
        stored: StoredResponses | None = None,
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
        self._workers = workers
        self._policy = GatewayPolicy()
        self._body_bytes = self._policy.body_mib * MIB
        self.bodies = BodyBudget(budget_bytes(self._body_bytes, workers))
        self.turns = LargeRequests()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="redact")
        self._table = model_rules.Table(self._policy, ())
        self._features = FeaturePipeline(self._policy)
        self.stored = stored or StoredResponses()
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
            self._body_bytes = policy.body_mib * MIB
            self.bodies.limit = budget_bytes(self._body_bytes, self._workers)
            self._features = FeaturePipeline(policy)
            self._plain = policy.cache is None and policy.redact is None

    def check(self, context: RequestContext) -> None:
        """Check the client's key, its requests per minute, and the announced length of the body."""
        record = context.record
        self._seen.begin(record)
        if self.in_flight.draining:
            raise errors.draining()
        request = context.request
        token = shown_key(request.headers)
        if self._guard is not None and not token:
            method = request.method.decode()
            self._guard.check(method, request.path, request.headers, context.client.server)
        principal = context.principal = self._keys.find_for_inference(token)
        if principal is None:
            raise errors.unauthorized()
        record.key = principal.name
        limits = principal.limits
        request.limit = self._body_bytes
        if limits is not None:
            request.limit = head_checks.longest_body(self._body_bytes, limits, request.path)
            self._limits.check(principal)
        if request.too_large:
            raise errors.too_large(request.limit)
        request.coding = content_coding.named(request.headers.get(b"content-encoding"))

    def inspect(self, context: RequestContext) -> Iterator[None]:
        """Unpack a body, and refuse a large one with too many parts, slice by slice."""
        if context.request.coding:
            yield from context.request.unpack()
        if context.path not in FORMS:  # a form's parser bounds its parts
            yield from body_shape.check(context.request.body)

    def admit(self, context: RequestContext) -> Reply | ThreadWork | None:
        """Decode the request, choose the models, and reserve tokens."""
        translated = self._translate(context)
        asked = context.ask = self._read(context)
        principal, record, table = context.principal, context.record, self._table
        record.model = asked.model
        follows = earlier(asked) if context.path == RESPONSES else ""
        limits, checked = principal.limits, None
        size = None if context.form is not None else prompt_size.measured(context.body)
        if size is not None:
            context.prompt = size.tokens()
        # Requests that nothing limits go on byte for byte, without a second look at their fields.
        if size is not None and (limits is not None or principal.models != ALL or table.rules):
            checked = self._check_fields(context, size)
        longest = asked.limit(context.path)
        traits = model_rules.Traits(record.key, context.request.headers, context.prompt, longest)
        models = model_rules.chosen(table, principal.allows, asked.model, traits)
        context.models = models
        record.model = models[0]
        own = table.policies.get(models[0])
        if checked is None and size is not None and token_ceilings.hold(own):
            checked = self._check_fields(context, size)
        tokens = asked.tokens(context.prompt if size is None else size.tokens(), longest)
        reserved = tokens if checked is None else self._limit(context, checked, own)
        reserved = reserved if context.form is None else self._limit_form(context, own)
        context.work = RequestCost(tokens, *self._beginnings(context, asked), principal.id)
        # After all checks of the request: a refused request must not use up the key's limits.
        context.reservation = self._limits.reserve(principal, reserved)
        self._budget.deposit()
        if self._tracer is not None:
            self._begin_span(self._tracer, context, asked)
        # The common request has no extra feature and skips the preparation as a whole.
        counted = limits is not None and asked.stream and token_ceilings.counts(limits)
        if counted or not self._plain or translated is not None or follows:
            return self._prepare(context, asked, translated, follows)
        return None

    def _translate(self, context: RequestContext) -> Translated | None:
        """Bring the request into OpenAI's form, before any rule looks at the request."""
        context.body = context.request.body
        translate = TRANSLATIONS.get(context.path)
        if translate is None:
            return None
        translated = translate(context.path, context.body)
        context.path, context.body = translated.path, translated.body
        return translated

    def _read(self, context: RequestContext) -> RequestFields:
        """Decode a request; of a form, estimate its prompt."""
        if context.path not in FORMS:
            return request_body.read(context.body)
        headers = context.request.headers
        form = context.form = form_body.read(headers.get(b"content-type", b""), context.body)
        context.prompt, asked = form.tokens, form.fields()
        context.request.headers = {**headers, b"content-type": form.content_type}
        context.body = form.body(asked.model)
        return asked

    def _limit_form(self, context: RequestContext, own: ModelPolicy | None) -> int:
        """Return the tokens to reserve for a form."""
        token_ceilings.check_prompt(context.prompt, own, context.principal.limits)
        answers = 1 if context.form is None else context.form.answers
        return context.prompt + token_ceilings.pictures(context.path, answers)

    def _check_fields(self, context: RequestContext, size: PromptSize) -> CheckedFields:
        """Return the request's fields without ambiguity, and note their estimated tokens."""
        checked = counted = request_fields.checked(context.path, context.body)
        if size.text is not context.body:
            counted = request_fields.checked(context.path, size.text)
        context.prompt = counted.prompt_tokens() + size.media
        return checked

    def _limit(
        self, context: RequestContext, checked: CheckedFields, own: ModelPolicy | None
    ) -> int:
        """Write the length of the answer that is allowed; return the tokens to reserve."""
        principal, limits, prompt = context.principal, context.principal.limits, context.prompt
        token_ceilings.check_prompt(prompt, own, limits)
        ceiling, room = token_ceilings.lowest(own, limits), self._limits.room(principal)
        if context.path not in request_fields.WRITTEN or (ceiling is None and room is None):
            context.body = checked.body()
            pictured = context.path in PICTURES
            return prompt + token_ceilings.pictures(
                context.path, checked.answers() if pictured else 1
            )
        answers = context.answers = checked.answers()
        room = None if room is None else room - prompt
        length = token_ceilings.answer_length(checked.length(), answers, ceiling, room)
        # The engine, not the gateway, cuts the answer, by the one field that all engines read.
        context.body = checked.with_length(length).body()
        return prompt + length * answers

    def _begin_span(self, tracer: Tracer, context: RequestContext, asked: RequestFields) -> None:
        """Begin the span, and pass its context to the replica in place of the client's."""
        given = context.request.headers
        context.span = tracer.begin(
            context.record.path,
            asked.model,
            traceparent=given.get(b"traceparent"),
            tracestate=given.get(b"tracestate"),
            stream=bool(asked.stream),
            max_tokens=asked.limit(context.path),
            request_id=context.record.name,
        )
        context.request.headers = tracing.for_engine(context.span, given)

    def _prepare(
        self,
        context: RequestContext,
        fields: RequestFields,
        translated: Translated | None,
        follows: str,
    ) -> Reply | ThreadWork | None:
        """Apply the optional features; the cache or a translation may already give the answer."""
        context.translated = translated
        if translated is not None and translated.answer is not None:
            model = self._catalog().models.get(context.models[0])
            if model is None or not model.replicas:
                raise not_ready(fields.model, model, time.time())
            kind = b"content-type: %b\r\n" % translated.content_type
            return Reply(OK, kind + self.lines(context), translated.answer)
        redaction, key = self._features.redaction, context.principal.id
        if follows and self.stored.find(key, follows) is None:
            return ThreadWork(partial(self._own, key, follows, redaction, context.body))
        if redaction is not None:
            if context.form is not None:
                raise errors.bad_request(
                    "this gateway redacts requests, and cannot look into files"
                )
            body = context.body
            found = redaction.at_once(body) if len(body) <= SMALL else None
            if found is None:
                return ThreadWork(lambda: redaction.in_time(body))
            context.body = found
        return self._featured(context, fields)

    def _own(
        self, key: str, follows: str, redaction: RequestRedaction | None, body: bytes
    ) -> bytes:
        """Return a request's redacted body, if another worker knows its earlier response."""
        self.stored.find_elsewhere(key, follows)
        return body if redaction is None else redaction.in_time(body)

    def resume(self, context: RequestContext, body: bytes) -> Reply | None:
        """Go on with the redacted body."""
        context.body = body
        return self._featured(context, context.ask or request_body.RequestFields())

    def in_thread(self, work: ThreadWork) -> asyncio.Future[bytes]:
        """Start work in the thread for long redactions."""
        return asyncio.get_running_loop().run_in_executor(self._threads, work.run)

    def also_hot(self, method: bytes, path: bytes) -> str | None:
        """Return None: single responses are pages here."""
        del method, path
        return None

    def close(self) -> None:
        """Let the thread end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _featured(self, context: RequestContext, fields: RequestFields) -> Reply | None:
        """Look into the cache, ask for usage, and prepare the edits of the answer."""
        translated = context.translated
        model = self._catalog().models.get(context.models[0])
        principal = context.principal
        asked = FeatureRequest(
            context.path,
            fields,
            context.models[0],
            identity="" if model is None else model.identity,
            key_id=principal.id,
            counted=token_ceilings.counts(principal.limits),
            running=all(map(self._is_vllm, context.models)),
        )
        prepared = self._features.prepare(context.body, asked, translated)
        context.body, context.edits = prepared.body, prepared.edits
        context.record.cache = context.cache = prepared.cache
        if prepared.hit is None:
            return None
        form = EVENTS if fields.stream else response_head.JSON
        kind = b"content-type: %b\r\n" % (form if translated is None else translated.content_type)
        return Reply(OK, kind + self.lines(context), prepared.hit.body)

    def _is_vllm(self, name: str) -> bool:
        model = self._catalog().models.get(name)
        return model is not None and model.engine == VLLM

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
                try:
                    self._rename(context, asked, name)
                except errors.ApiError:
                    if lease is not None:
                        lease.release("ok")
                    raise
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
        own, path = self._table.policies.get(name), context.path
        if token_ceilings.hold(own) and path in request_fields.WRITTEN:
            checked = request_fields.checked(path, context.body)
            ceiling = token_ceilings.lowest(own, context.principal.limits)
            # Without a word of the client the body may have the first model's length by now.
            written, answers = checked.length(), checked.answers()
            room = None if written is None else written * answers
            said = asked.limit(path)
            if ceiling is not None:
                length = token_ceilings.answer_length(said, answers, ceiling, room)
                context.body = checked.with_length(length).body()
        context.body = _with_model(context, name)
        context.named = ""
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
        """Send the request without the client's key."""
        path = context.path
        # Request line, host and token are the same for all requests of a replica and path.
        way = self._ways.get((replica.key, path))
        if way is None:
            way = self._ways[replica.key, path] = self._way(replica, path)
        pool, fixed = way
        if replica.model is not None:
            self._name_as_served(context, replica.model)
        elif context.named:
            self._name_as_served(context, context.models[context.turn])
        if path == RESPONSES:
            edits = context.edits = self._features.edits(context.edits)
            edits.note = partial(self.stored.note, context.principal.id, replica.key)
        name, body = context.record.name.encode(), context.body
        head = request_head.request_head(fixed, context.request.headers, name, len(body))
        return self._upstream.send(pool, sink, head, body, fresh=fresh)

    def _name_as_served(self, context: RequestContext, served: str) -> None:
        """Write a server's own name of the model into the request, and ours into the answer."""
        if served != context.named:
            context.body = _with_model(context, served)
            context.named = served
        edits = context.edits = self._features.edits(context.edits)
        edits.model = context.models[context.turn]

    def _way(self, replica: Replica, path: str) -> tuple[Pool, bytes]:
        pool = self._upstream.pool(replica.peer)
        return pool, request_head.request_start("POST", pool.target, path, replica.token)

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
            what = "its key (api_key_env)" if replica.secret is None else "the gateway's secret"
            raise errors.upstream_error(f"the replica {replica.name} refuses {what}")
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
        name = record.name.encode()
        notes += error_forms.request_id(record.path, name)
        return b"%b%bx-request-id: %b\r\nx-gateway-backend: %b\r\nserver-timing: %b\r\n" % (
            context.reservation.headers,
            notes,
            name,
            record.replica.encode(),
            b"gateway;dur=%.3f, queue;dur=%.3f" % (record.overhead_s * 1000, record.queue_s * 1000),
        )

    def refusal(self, error: errors.ApiError, context: RequestContext) -> tuple[bytes, bytes]:
        """Return the header lines and body of an error, in the client's form."""
        lines, body = refusal(error, context)
        if self._cors is not None:
            lines += self._cors.lines(context.request.headers.get(b"origin"))
        return lines, body

    def finished(self, context: RequestContext) -> None:
        """Record the end of a request, and settle its reservation."""
        record = context.record
        # First: a fault in the log or in a span must not keep the reservation.
        if context.reservation is not None:
            context.reservation.settle(charged(context))
        elif context.principal is not None and not record.limited:
            # A request that is refused by its content has cost work, and counts as a request.
            self._limits.refused(context.principal)
        self._seen.end(record)
        if context.span is not None:
            _end_span(context.span, record)


def _with_model(context: RequestContext, name: str) -> bytes:
    """Return the request's body with another model."""
    if context.form is not None:
        return context.form.body(name)
    return model_rules.with_fields(context.body, model=name)


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
