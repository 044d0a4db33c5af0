"""The paths of single stored responses, which go to the replica that keeps the response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api.batches import common
from gateway_lite.api.status import open_names
from gateway_lite.features.stored_responses import NAME, no_response
from gateway_lite.upstream.fetch import FetchError, fetch
from hpc.api_paths import RESPONSES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from gateway_lite.auth.rate_limits import Limits
    from gateway_lite.catalog.models import Catalog
    from gateway_lite.catalog.replica import Replica
    from gateway_lite.features.stored_responses import StoredResponses
    from gateway_lite.upstream.pool import Upstream

MOST_BYTES = 64 * 1024 * 1024
OK = 200
REDIRECT, FAILED = 300, 400
TOPIC = "responses"


class ResponsePages:
    """The paths of single responses.

    Args:
        stored: the places of responses.
        catalog: returns the current catalog, or raises an ApiError.
        aliases: returns model by alias.
        upstream: connections to replicas.
        limits: the limits of keys; each request counts as one.
    """

    def __init__(
        self,
        stored: StoredResponses,
        catalog: Callable[[], Catalog],
        aliases: Callable[[], Mapping[str, str]],
        upstream: Upstream,
        limits: Limits,
    ) -> None:
        self._stored = stored
        self._catalog = catalog
        self._aliases = aliases
        self._upstream = upstream
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return the routes of these paths."""
        one = RESPONSES + "/{response_id}"
        page = common.counted(self._limits, self.pass_on)
        return [
            Route(one, page, methods=["GET"]),
            Route(one, page, methods=["DELETE"]),
            Route(f"{one}/cancel", page, methods=["POST"]),
        ]

    async def pass_on(self, request: Request) -> Response:
        """Let the replica that keeps a response answer.

        Raises:
            ApiError: the key has no such response, or the replica does not answer.
        """
        name, key = request.path_params["response_id"], request.scope["principal"]
        replica = await self._replica(name, key.id, key.allows)
        pool = self._upstream.pool(replica.peer)
        try:
            answer = await fetch(
                self._upstream,
                pool,
                # Not the URL's path: older versions of Starlette read it from the client's Host.
                request.scope["path"],
                method=request.method,
                token=replica.token,
                most=MOST_BYTES,
            )
        except FetchError as error:
            told = f"the replica {replica.name} did not answer: {error}"
            raise errors.upstream_unreachable(told) from error
        if REDIRECT <= answer.status < FAILED:
            raise errors.upstream_error(f"the replica {replica.name} redirects")
        if request.method == "DELETE" and answer.status == OK:
            self._stored.forget(key.id, name)
        kind = answer.headers.get(b"content-type", b"application/json").decode("latin-1")
        headers = {"content-type": kind, "x-gateway-backend": replica.name}
        return Response(answer.body, answer.status, headers)

    async def _replica(self, name: str, key: str, allows: Callable[[str], bool]) -> Replica:
        """Return the replica that keeps a response of a key."""
        if not NAME.fullmatch(name):
            raise no_response(name)
        place = self._stored.find(key, name)
        if place is None:
            place = await asyncio.to_thread(self._stored.find_elsewhere, key, name)
        catalog = self._catalog()
        open_to_key = set(open_names(catalog, self._aliases(), allows).values())
        found = [
            replica
            for model in catalog.models.values()
            for replica in model.replicas
            if replica.key == place and model.name in open_to_key
        ]
        if not found:
            raise no_response(name)
        return found[0]
