"""The gateway's desk: who may ask whom for what, and where that goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway_lite import ask, errors, reply
from gateway_lite.desk import refusal
from gateway_lite.place import Work
from gateway_lite.record import LEFT, bearer
from gateway_lite.replicas import NoReplicaError
from gateway_lite.retries import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.auth import Keys
    from gateway_lite.catalog import Catalog
    from gateway_lite.exchange import Exchange
    from gateway_lite.gate import Gate
    from gateway_lite.limits import Limits
    from gateway_lite.link import Link
    from gateway_lite.place import Balancer, Lease, Waiting
    from gateway_lite.record import Record
    from gateway_lite.replicas import Replica
    from gateway_lite.seen import Seen
    from gateway_lite.settings import Settings
    from gateway_lite.upstream import Dial, Pool, Upstream
    from gateway_lite.watch import Watcher

TWO = 2

FAILED = 400


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
        settings: sizes.
    """

    def __init__(  # noqa: PLR0913 - it joins the parts of the gateway
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
        settings: Settings,
    ) -> None:
        self.gate = gate
        self.settings = settings
        self._catalog = catalog
        self._keys = keys
        self._limits = limits
        self._balancer = balancer
        self._upstream = upstream
        self._watcher = watcher
        self._seen = seen
        self._ways: dict[tuple[str, str], tuple[Pool, bytes]] = {}
        self._budget = RetryBudget()
        self._tasks: set[asyncio.Task[None]] = set()

    def forget(self) -> None:
        """Make the heads of requests anew, as the replicas have changed."""
        self._ways.clear()

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
        body = exchange.body = exchange.request.body
        asked = exchange.ask = ask.read(body)
        model = exchange.record.model = asked.model
        if not exchange.principal.allows(model):
            raise errors.model_not_allowed(model)
        exchange.models = (model,)
        tokens = asked.tokens(len(body))
        exchange.work = Work(tokens, self._prefix(exchange, asked))
        exchange.grant = self._limits.reserve(exchange.principal, tokens)
        self._budget.deposit()

    def _prefix(self, exchange: Exchange, asked: ask.Ask) -> bytes:
        """Return what decides on the replica, where there is a choice."""
        if self._balancer.ready(asked.model) < TWO:
            return b""
        given = exchange.request.headers.get(b"x-session-id")
        named = asked.prompt_cache_key or asked.user
        session = given.decode("latin-1") if given else named if isinstance(named, str) else None
        return ask.prefix(asked, session)

    def place(self, exchange: Exchange) -> Lease | None:
        """Return a place at a replica of the model."""
        name = exchange.models[exchange.turn]
        model = self._catalog().models.get(name)
        if model is None:
            raise errors.model_not_found(name)
        try:
            return self._balancer.place(name, exchange.work, exchange.tried)
        except NoReplicaError:
            raise errors.model_not_ready(name, model.phase) from None

    def wait(self, exchange: Exchange, done: Callable[[Lease | Exception], None]) -> Waiting:
        """Wait for a slot."""
        name = exchange.models[exchange.turn]
        return self._balancer.wait(name, exchange.work, exchange.tried, done)

    def send(self, exchange: Exchange, replica: Replica, *, fresh: bool) -> Link | Dial:
        """Send the request, with the replica's secret in place of the client's key."""
        way = self._ways.get((replica.key, exchange.record.path))
        if way is None:
            way = self._ways[replica.key, exchange.record.path] = self._way(
                replica, exchange.record.path
            )
        pool, fixed = way
        head = reply.request_head(
            fixed, exchange.request.headers, exchange.record.name.encode(), len(exchange.body)
        )
        return self._upstream.send(pool, exchange, head, exchange.body, fresh=fresh)

    def _way(self, replica: Replica, path: str) -> tuple[Pool, bytes]:
        pool = self._upstream.pool(replica.url)
        return pool, reply.request_start("POST", pool.target, path, replica.secret)

    def another(self, exchange: Exchange, *, worked: bool, elsewhere: bool) -> bool:
        """Allow one more attempt where that is safe and of use."""
        model = exchange.models[exchange.turn]
        if elsewhere and not self._balancer.others(model, exchange.tried):
            return False
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
        return b"%bx-request-id: %b\r\nx-gateway-backend: %b\r\nserver-timing: %b\r\n" % (
            exchange.grant.headers,
            record.name.encode(),
            record.replica.encode(),
            b"gateway;dur=%.3f, queue;dur=%.3f" % (record.overhead_s * 1000, record.queue_s * 1000),
        )

    def refusal(self, error: errors.ApiError, exchange: Exchange) -> tuple[bytes, bytes]:
        """Return an error in OpenAI's form."""
        return refusal(error, exchange)

    def finished(self, exchange: Exchange) -> None:
        """Note it, and count what it used."""
        record = exchange.record
        self._seen.end(record)
        if exchange.grant is not None:
            exchange.grant.settle(_used(record, exchange.grant.tokens))


def _used(record: Record, estimate: int) -> int | None:
    """Return the tokens reported, the estimate where an answer does not report any, or None."""
    reported = record.used()
    if reported is not None:
        return reported.prompt + reported.completion
    answered = record.first_at is not None and (record.status < FAILED or record.status == LEFT)
    return estimate if answered else None
