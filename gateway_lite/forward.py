"""The way of a request to a replica and back, with what may be tried when a replica fails."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway_lite import errors
from gateway_lite.asgi import read_body, while_connected
from gateway_lite.balance import NoReplicaError
from gateway_lite.proxy import Fault, UpstreamError, relay, upstream_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway_lite.asgi import Receive, Scope, Send
    from gateway_lite.balance import Balancer, Lease, Replica
    from gateway_lite.catalog import Catalog
    from gateway_lite.edge import Gate
    from gateway_lite.proxy import Reply, Upstream
    from gateway_lite.record import Record
    from gateway_lite.settings import Settings
    from gateway_lite.watch import Watcher

log = logging.getLogger(__name__)

UNAUTHORIZED = 401
UNAVAILABLE = 503
ELSEWHERE = frozenset({502, UNAVAILABLE, 504})
"""Answers of a replica after which another one is asked."""


@dataclass(slots=True)
class Exchange:
    """One request while it is served.

    Attributes:
        record: what is noted of it.
        tried: keys of replicas that failed it.
        replayed: a replica may have worked on it already; that happens once at most.
        renewed: a replica's secret was read again for it.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    model: str
    record: Record
    tried: set[str] = field(default_factory=set)
    replayed: bool = False
    renewed: bool = False

    @property
    def name(self) -> str:
        """The request's name in logs."""
        return self.headers["x-request-id"]


def model_of(body: bytes) -> str:
    """Return the model that a request asks for.

    Raises:
        ApiError: it is no JSON object, or names no model.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.bad_request("the request is not valid JSON") from error
    if not isinstance(asked, dict):
        raise errors.bad_request("the request is not a JSON object")
    model = asked.get("model")
    if not isinstance(model, str) or not model:
        raise errors.bad_request("the request names no model", param="model")
    return model


class Forward:
    """Serves the POST paths that engines serve.

    Args:
        catalog: returns the current one, or raises an ApiError.
        upstream: connections to replicas.
        balancer: places requests.
        watcher: reads a secret again that was refused.
        gate: ends what is under way.
        settings: sizes.
    """

    def __init__(
        self,
        *,
        catalog: Callable[[], Catalog],
        upstream: Upstream,
        balancer: Balancer,
        watcher: Watcher,
        gate: Gate,
        settings: Settings,
    ) -> None:
        self._catalog = catalog
        self._upstream = upstream
        self._balancer = balancer
        self._watcher = watcher
        self._gate = gate
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record: Record = scope["record"]
        body = await read_body(scope, receive, self._settings.body_bytes)
        model = record.model = model_of(body)
        if not scope["principal"].allows(model):
            raise errors.model_not_allowed(model)
        exchange = Exchange(scope["path"], upstream_headers(scope), body, model, record)
        await while_connected(receive, self._serve(exchange, send), self._gate.expired)

    async def _serve(self, exchange: Exchange, send: Send) -> None:
        reply = None
        while reply is None:
            with await self._place(exchange) as replica:
                reply = await self._attempt(exchange, replica)
                if reply is not None:
                    await _pass_back(reply, replica, send)

    async def _place(self, exchange: Exchange) -> Lease:
        """Return a place at a replica of the model."""
        model = self._catalog().models.get(exchange.model)
        if model is None:
            raise errors.model_not_found(exchange.model)
        began = time.perf_counter()
        try:
            return await self._balancer.acquire(model.name, avoid=exchange.tried)
        except NoReplicaError:
            now = self._catalog().models.get(model.name, model)
            raise errors.model_not_ready(model.name, now.phase) from None
        finally:
            exchange.record.queue_s += time.perf_counter() - began

    async def _attempt(self, exchange: Exchange, replica: Replica) -> Reply | None:
        """Ask one replica; None means that another attempt is allowed."""
        exchange.record.attempts += 1
        exchange.record.replica = replica.name
        headers = dict(exchange.headers)
        if replica.secret is not None:
            headers["authorization"] = f"Bearer {replica.secret}"
        try:
            reply = await self._upstream.open(
                "POST",
                replica.url + exchange.path,
                headers=headers,
                body=exchange.body,
                fresh=exchange.replayed,
            )
        except UpstreamError as error:
            log.warning("request %s: %s %s", exchange.name, replica.name, error)
            self._failed(exchange, replica, error)
            return None
        if reply.status == UNAUTHORIZED:
            reply.close()
            await self._refused(exchange, replica)
            return None
        if self._better_elsewhere(exchange, replica, reply.status):
            reply.close()
            return None
        return reply

    def _failed(self, exchange: Exchange, replica: Replica, error: UpstreamError) -> None:
        """Note a failure; raise where nothing is left to try."""
        message = f"the replica {replica.name} {error.fault.value}"
        if error.fault is Fault.SILENT:
            raise errors.upstream_timeout(message) from error
        exchange.tried.add(replica.key)
        if error.fault is Fault.UNREACHABLE:
            self._balancer.shun(replica)
            if self._balancer.others(exchange.model, exchange.tried):
                return
            raise errors.upstream_unreachable(message) from error
        if error.fault is Fault.BROKEN and not exchange.replayed:
            exchange.replayed = True
            return
        raise errors.upstream_error(message) from error

    async def _refused(self, exchange: Exchange, replica: Replica) -> None:
        """Read the replica's secret again, once."""
        if exchange.renewed:
            raise errors.upstream_error(f"the replica {replica.name} refuses the gateway's secret")
        exchange.renewed = True
        await self._watcher.again(refused=replica.key)

    def _better_elsewhere(self, exchange: Exchange, replica: Replica, status: int) -> bool:
        """Tell whether to ask another replica; one that says 503 has done no work."""
        if status not in ELSEWHERE:
            return False
        log.warning("request %s: %s answers %d", exchange.name, replica.name, status)
        self._balancer.shun(replica)
        if not self._balancer.others(exchange.model, {*exchange.tried, replica.key}):
            return False
        if status != UNAVAILABLE:
            if exchange.replayed:
                return False
            exchange.replayed = True
        exchange.tried.add(replica.key)
        return True


async def _pass_back(reply: Reply, replica: Replica, send: Send) -> None:
    try:
        await relay(reply, send, [(b"x-gateway-backend", replica.name.encode())])
    finally:
        reply.close()
