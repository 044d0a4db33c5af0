"""The pages of Ollama's API that need no engine: models and version."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from gateway_lite.api import ollama_models
from gateway_lite.api.ollama_models import Listed
from gateway_lite.wire.asgi import read_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from gateway_lite.catalog.scanner import Catalog, Model

ASKED_BYTES = 64 * 1024


class OllamaPages:
    """Ollama's lists, made from the catalog.

    Args:
        catalog: returns the current catalog, or raises an ApiError.
    """

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        self._catalog = catalog
        self._since = time.time()

    def routes(self) -> list[Route]:
        """Return the routes of these pages."""
        return [
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.ps),
            Route("/api/show", self.show, methods=["POST"]),
        ]

    async def version(self, request: Request) -> Response:
        """Answer with the release of Ollama's API."""
        del request
        return _json(ollama_models.version())

    async def tags(self, request: Request) -> Response:
        """List the models that the key may use."""
        return _json(ollama_models.tags(self._listed(request)))

    async def ps(self, request: Request) -> Response:
        """List the models with a ready replica that the key may use."""
        return _json(ollama_models.ps(self._listed(request, ready=True)))

    async def show(self, request: Request) -> Response:
        """Describe a model open to the key."""
        body = await read_body(request.scope, request.receive, ASKED_BYTES)
        return _json(ollama_models.show(body, self._listed(request)))

    def _listed(self, request: Request, *, ready: bool = False) -> list[Listed]:
        allowed = request.scope["principal"].allows
        known = self._catalog().models.values()
        return [
            self._entry(model)
            for model in known
            if allowed(model.name) and (model.replicas or not ready)
        ]

    def _entry(self, model: Model) -> Listed:
        return Listed(model.name, self._since, model.identity, model.engine or "")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
