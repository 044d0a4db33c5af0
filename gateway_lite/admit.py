"""The gateway's desk: who may ask whom for what, and where that goes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway_lite import ask, ceilings, errors, ollama, reply, routing, traced
from gateway_lite.desk import refusal
from gateway_lite.extras import Extras
from gateway_lite.ollama_answer import error_body
from gateway_lite.place import Work
from gateway_lite.record import bearer
from gateway_lite.replicas import NoReplicaError
from gateway_lite.retries import RetryBudget
from gateway_lite.standing import not_ready
from hpc.policy import GatewayPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.auth import Keys
    from gateway_lite.catalog import Catalog
    from gateway_lite.cors import Cors
    from gateway_lite.exchange import Exchange
    from gateway_lite.gate import Gate
    from gateway_lite.limits import Limits
    from gateway_lite.link import Link
    from gateway_lite.outbox import Outbox
    from gateway_lite.place import Balancer, Lease, Waiting
    from gateway_lite.replicas import Replica
    from gateway_lite.seen import Seen
    from gateway_lite.settings import Settings
    from gateway_lite.tracing import Tracer
    from gateway_lite.upstream import Dial, Pool, Upstream
    from gateway_lite.watch import Watcher

OK = 200
EVENTS = b"text/event-stream; charset=utf-8"


class GatewayDesk:
    """Decides on the requests of clients.

    Args:
        catalog: returns the current one, or raises an ApiError.
        keys: those of the clients.
        limits: what those may use.
        balancer: places requests.
        upstream: connections to replicas.
        watcher: reads a secret again that was refused.
        seen: notes every request.
        gate: counts what is under way.
        outbox: takes what is sent.
        settings: sizes.
    """

    def __init__(  # noqa: PLR0913 - the parts of a gateway meet here
        self,
        *,
        catalog: Callable[[], Catalog],
        keys: Keys,
        limits: Limits,
        balancer: Balancer,
        upstream: Upstream,
        watcher: Watcher,
        seen: Seen,
        gate: Gate,
        outbox: Outbox,
        settings: Settings,
    ) -> None:
        self.gate = gate
        self.outbox = outbox
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
        self._table = routing.Table(self._policy, ())
        self._extras = Extras(self._policy)
        self._plain = True
        self._ways: dict[tuple[str, str], tuple[Pool, bytes]] = {}
        self._budget = RetryBudget()
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Make the heads of requests anew, as the replicas have changed."""
        self._ways.clear()

    def adopt(self, policy: GatewayPolicy, table: routing.Table) -> None:
        """Treat requests as models.yaml says from now on."""
        self._table = table
        if policy != self._policy:
            self._policy = policy
            self._extras = Extras(policy)
            self._plain = policy.cache is None and policy.redact is None

    def check(self, exchange: Exchange) -> None:
        """Ask for a key, and refuse what tells that it is too large."""
        record = exchange.record
        self._seen.begin(record)
        if self.gate.draining:
            raise errors.draining()
        token = bearer(exchange.request.headers.get(b"authorization", b""))
        principal = exchange.principal = self._keys.find(token)
        if principal is None:
            raise errors.unauthorized()
        record.key = principal.name
        if exchange.request.too_large:
            raise errors.too_large(self.settings.body_bytes)

    def admit(self, exchange: Exchange) -> None:
        """Read what the request wants, and whether the key may have that."""
        exchange.body = exchange.request.body
        if exchange.path in ollama.PATHS:
            self._translate(exchange)
        asked = exchange.ask = ask.read(exchange.body)
        principal, record, table = exchange.principal, exchange.record, self._table
        record.model = asked.model
        prompt, longest = len(exchange.body) // ask.BYTES_PER_TOKEN, asked.limit()
        traits = routing.Traits(record.key, exchange.request.headers, prompt, longest)
        models = routing.chosen(table, principal.allows, asked.model, traits)
        exchange.models = models
        record.model = models[0]
        own, limits = table.policies.get(models[0]), principal.limits
        most = ceilings.missing(exchange.path, prompt, longest, own, limits)
        if most is not None:
            exchange.body = routing.with_fields(exchange.body, max_tokens=most)
        tokens = asked.tokens(len(exchange.body), longest)
        exchange.work = Work(tokens, *self._beginnings(exchange, asked))
        exchange.grant = self._limits.reserve(principal, tokens)
        self._budget.deposit()
        if self.tracer is not None:
            traced.begin(self.tracer, exchange)
        counted = principal.limits is not None and asked.stream
        if counted or not self._plain or exchange.extra is not None:
            self._prepare(exchange)

    def _translate(self, exchange: Exchange) -> None:
        """Take a request of Ollama's form for the one of OpenAI's that it means."""
        translated = ollama.translate(exchange.path, exchange.body)
        exchange.path, exchange.body = translated.path, translated.body
        self._extras.translate(exchange, translated)

    def _prepare(self, exchange: Exchange) -> None:
        """Do what is asked for beside passing it on; answer at once where that is all."""
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
            kind = b"content-type: %b\r\n" % (EVENTS if events else reply.JSON)
            exchange.notes = b"x-gateway-cache: hit\r\n"
            exchange.answer(OK, kind + self.lines(exchange), hit.body)

    def _beginnings(self, exchange: Exchange, asked: ask.Ask) -> tuple[bytes, bytes]:
        """Return what decides on the replica, where there is a choice."""
        if not self._balancer.several(exchange.models[0]):
            return b"", b""
        headers = exchange.request.headers
        session = routing.session_of(headers, asked.user, asked.prompt_cache_key)
        return ask.beginnings(asked, session)

    def place(self, exchange: Exchange) -> Lease | None:
        """Return a place at a replica of the model, or of one that stands in for it."""
        asked = exchange.ask or ask.Ask()
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
        """Turn to the next model, if there is one."""
        if exchange.turn + 1 >= len(exchange.models):
            return False
        exchange.turn += 1
        if exchange.extra is not None:
            exchange.extra.miss = None
        exchange.notes = b""
        return True

    def _rename(self, exchange: Exchange, asked: ask.Ask, name: str) -> None:
        """Make it a request to another model, within that one's ceilings."""
        own, limits = self._table.policies.get(name), exchange.principal.limits
        most = ceilings.missing(exchange.path, 0, asked.limit(), own, limits)
        length = {} if most is None else {"max_tokens": most}
        exchange.body = routing.with_fields(exchange.body, model=name, **length)
        exchange.record.model = name
        exchange.notes += b"x-gateway-model: %b\r\n" % name.encode()

    def wait(self, exchange: Exchange, done: Callable[[Lease | Exception], None]) -> Waiting:
        """Wait for a slot."""
        name = exchange.models[exchange.turn]
        return self._balancer.wait(name, exchange.work, exchange.tried, done)

    def send(self, exchange: Exchange, replica: Replica, *, fresh: bool) -> Link | Dial:
        """Send the request, with the replica's secret in place of the client's key."""
        path = exchange.path
        way = self._ways.get((replica.key, path))
        if way is None:
            way = self._ways[replica.key, path] = self._way(replica, path)
        pool, fixed = way
        name, body = exchange.record.name.encode(), exchange.body
        head = reply.request_head(fixed, exchange.request.headers, name, len(body))
        return self._upstream.send(pool, exchange, head, body, fresh=fresh)

    def _way(self, replica: Replica, path: str) -> tuple[Pool, bytes]:
        pool = self._upstream.pool(replica.url)
        return pool, reply.request_start("POST", pool.target, path, replica.secret)

    def another(self, exchange: Exchange, *, worked: bool, elsewhere: bool) -> bool:
        """Allow one more attempt where that is safe and of use."""
        model = exchange.models[exchange.turn]
        if elsewhere and not self._balancer.others(model, exchange.tried):
            return not (worked and exchange.replayed) and self._fall_back(exchange)
        if (worked and exchange.replayed) or not self._budget.withdraw():
            return False
        exchange.replayed = exchange.replayed or worked
        return True

    def look(self, passed_s: float) -> None:
        """Note time that passed."""
        self._budget.passed(passed_s)

    def renew(self, exchange: Exchange, replica: Replica) -> None:
        """Read the replica's secret again, once."""
        if exchange.renewed:
            raise errors.upstream_error(f"the replica {replica.name} refuses the gateway's secret")
        exchange.renewed = True
        task = asyncio.get_running_loop().create_task(self._renew(exchange, replica.key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, exchange: Exchange, key: str) -> None:
        await self._watcher.again(refused=key)
        exchange.again()

    def lines(self, exchange: Exchange) -> bytes:
        """Return the header lines that only we can say."""
        record = exchange.record
        if self.cors is not None:
            exchange.notes += self.cors.lines(exchange.request.headers.get(b"origin"))
        return b"%b%bx-request-id: %b\r\nx-gateway-backend: %b\r\nserver-timing: %b\r\n" % (
            exchange.grant.headers,
            exchange.notes,
            record.name.encode(),
            record.replica.encode(),
            b"gateway;dur=%.3f, queue;dur=%.3f" % (record.overhead_s * 1000, record.queue_s * 1000),
        )

    def refusal(self, error: errors.ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return an error in the form that the client knows."""
        lines, body = refusal(error, exchange)
        if exchange.record.path in ollama.PATHS:
            body = error_body(error.message)
        if self.cors is not None:
            lines += self.cors.lines(exchange.request.headers.get(b"origin"))
        return lines, body

    def finished(self, exchange: Exchange) -> None:
        """Note it, and count what it used."""
        record = exchange.record
        self._seen.end(record)
        if exchange.span is not None:
            traced.end(exchange)
        if exchange.grant is not None:
            exchange.grant.settle(record.charged(exchange.grant.tokens))
