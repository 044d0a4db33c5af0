"""The answers that need no replica: models, readiness, version."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from hpc import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from gateway_lite.catalog import Catalog, Model
    from gateway_lite.reload import Models

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Pages:
    """What can be told from the catalog.

    Args:
        catalog: returns the current one, or raises an ApiError.
        models: the models.yaml in force.
        metrics: returns all of them as text; called in a thread.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], models: Models, metrics: Callable[[], bytes]
    ) -> None:
        self._catalog = catalog
        self._models = models
        self._metrics = metrics
        self._created = int(time.time())

    def routes(self) -> list[Route]:
        """Return the paths served here."""
        return [
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/readyz", self.ready),
            Route("/version", self.version),
            Route("/metrics", self.metrics),
        ]

    async def models(self, request: Request) -> JSONResponse:
        """List the models that the key may use."""
        allowed = request.scope["principal"].allows
        known = self._catalog().models.values()
        data = [self._describe(model) for model in known if allowed(model.name)]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> JSONResponse:
        """Describe one model.

        Raises:
            ApiError: it is unknown, or the key may not use it.
        """
        name = request.path_params["name"]
        if not request.scope["principal"].allows(name):
            raise errors.model_not_allowed(name)
        model = self._catalog().models.get(name)
        if model is None:
            raise errors.model_not_found(name)
        return JSONResponse(self._describe(model))

    async def ready(self, request: Request) -> JSONResponse:
        """Tell whether a request could be served."""
        del request
        models = self._catalog().models.values()
        ready = sum(1 for model in models if model.replicas)
        status = "ok" if ready else "no model is ready"
        body = {"status": status, "models": len(models), "ready": ready}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def version(self, request: Request) -> JSONResponse:
        """Tell which version runs, and whether models.yaml is in force as it stands."""
        del request
        told = {"models_file": self._models_file()}
        return JSONResponse({"name": "hpc-serve", "version": __version__, **told})

    def _models_file(self) -> dict[str, Any]:
        """Return what became of the file; users need not learn in which folder it is."""
        found, path = self._models.outcome, self._models.path
        refused = found.refused
        if refused is not None and path is not None:
            refused = refused.replace(f"{path.parent}/", "")
        return {"taken_at": found.taken_at, "refused": refused, "refused_at": found.refused_at}

    async def metrics(self, request: Request) -> Response:
        """Tell what was counted, in the form that Prometheus reads."""
        del request
        text = await asyncio.to_thread(self._metrics)
        return Response(text, headers={"content-type": METRICS_TYPE})

    def _describe(self, model: Model) -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": self._created,
            "owned_by": "hpc-serve",
            "phase": model.phase.value,
            "replicas": {"ready": len(model.replicas), "asked": model.asked},
        }
