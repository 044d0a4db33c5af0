"""The gateway's own pages: models, readiness, version and metrics."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api import about

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from gateway_lite.catalog.models_file import Models
    from gateway_lite.catalog.scanner import Catalog

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Pages:
    """The paths answered from the catalog and the metrics.

    Args:
        catalog: returns the current catalog, or raises an ApiError.
        models: the models.yaml in force.
        metrics: returns all metrics as text; called in a thread.
        aliases: returns model by alias.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        models: Models,
        metrics: Callable[[], bytes],
        aliases: Callable[[], Mapping[str, str]],
    ) -> None:
        self._catalog = catalog
        self._models = models
        self._metrics = metrics
        self._aliases = aliases
        self._created = int(time.time())

    def routes(self) -> list[Route]:
        """Return the routes of these paths."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/readyz", self.ready),
            Route("/version", self.version),
            Route("/metrics", self.metrics),
        ]

    async def models(self, request: Request) -> JSONResponse:
        """List the models that the key may use."""
        allows = request.scope["principal"].allows
        catalog = self._catalog()
        told = about.listing(catalog, self._aliases(), created=self._created, allows=allows)
        return JSONResponse(told)

    async def model(self, request: Request) -> JSONResponse:
        """Describe one model.

        Raises:
            ApiError: the model is unknown, or the key may not use the model.
        """
        name = request.path_params["name"]
        allows = request.scope["principal"].allows
        target = self._aliases().get(name, name)
        if not (allows(name) or allows(target)):
            raise errors.model_not_allowed(name)
        model = self._catalog().models.get(target)
        if model is None:
            raise errors.model_not_found(name)
        return JSONResponse(about.described(model, name, created=self._created))

    async def ready(self, request: Request) -> JSONResponse:
        """Answer 200 if a model is ready to serve, else 503."""
        del request
        models = self._catalog().models.values()
        ready = sum(1 for model in models if model.replicas)
        status = "ok" if ready else "no model is ready"
        body = {"status": status, "models": len(models), "ready": ready}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def version(self, request: Request) -> JSONResponse:
        """Describe the version, and the state of models.yaml."""
        told = about.version(
            self._catalog(),
            self._models.outcome,
            digest=self._models.digest,
            path=self._models.path,
            allows=request.scope["principal"].allows,
        )
        return JSONResponse(told)

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics in Prometheus' text format."""
        del request
        text = await asyncio.to_thread(self._metrics)
        return Response(text, headers={"content-type": METRICS_TYPE})
