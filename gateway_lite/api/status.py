"""The gateway's own pages: models, readiness, version and metrics."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.telemetry import prometheus_text
from hpc.keys.store import ANONYMOUS_ID
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.requests import Request

    from gateway_lite.catalog.models import Catalog, Model
    from gateway_lite.catalog.models_file import ModelsFile
    from hpc.keys.store import ClientKey
    from hpc.model import Reload


NO_ENDS = {"first_id": None, "last_id": None}
"""Anthropic's bounds of an empty list."""


def version(
    catalog: Catalog,
    outcome: Reload,
    *,
    digest: str,
    path: Path | None,
    allows: Callable[[str], bool],
) -> dict[str, Any]:
    """Return the running version, the configuration in force, and the server of each model.

    Args:
        catalog: the known models.
        outcome: outcome of the last read of models.yaml.
        digest: digest of the configuration in force.
        path: path of models.yaml; users need not learn its folder.
        allows: returns whether the requesting key may use a model.
    """
    refused = outcome.refused
    if refused is not None and path is not None:
        refused = refused.replace(f"{path.parent}/", "")
    return {
        "name": "hpc-serve",
        "version": __version__,
        "config": digest,
        "models_file": {
            "taken_at": outcome.taken_at,
            "refused": refused,
            "refused_at": outcome.refused_at,
        },
        "models": {
            model.name: {
                "engine": model.engine,
                "revision": model.revision,
                "phase": model.phase.value,
                "jobs": [one.job_id for one in model.members if one.job_id is not None],
            }
            for model in catalog.models.values()
            if allows(model.name)
        },
    }


def listing(
    catalog: Catalog, aliases: Mapping[str, str], *, created: int, allows: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the list of the models that a key may use, with their aliases.

    OpenAI's fields and Anthropic's stand beside each other, so that clients of both read one list.

    Args:
        catalog: the known models.
        aliases: model by alias.
        created: Unix time given for all models.
        allows: returns whether the requesting key may use a name.
    """
    names = open_names(catalog, aliases, allows)
    data = [
        described(catalog.models[model], name, created=created) for name, model in names.items()
    ]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": False, **(ends or NO_ENDS)}


def open_names(
    catalog: Catalog, aliases: Mapping[str, str], allows: Callable[[str], bool]
) -> dict[str, str]:
    """Return the names that a key may use, aliases included, each with the model behind the name.

    Args:
        catalog: the known models.
        aliases: model by alias.
        allows: returns whether the requesting key may use a name.
    """
    names = {name: name for name in catalog.models} | {
        alias: name for alias, name in aliases.items() if name in catalog.models
    }
    return {name: model for name, model in names.items() if allows(name) or allows(model)}


def described(model: Model, name: str, *, created: int) -> dict[str, Any]:
    """Return the description of a model, with OpenAI's fields and Anthropic's.

    Args:
        model: the model.
        name: the model's own name, or an alias.
        created: Unix time given for the model.
    """
    alias = {} if name == model.name else {"alias_of": model.name}
    if model.base is not None:
        alias["parent"] = model.base
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "hpc-serve",
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, timezone.utc).isoformat(),
        "lifecycle": "active",
        **alias,
        "phase": model.phase.value,
        "replicas": {"ready": len(model.replicas), "asked": model.asked},
    }


METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StatusPages:
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
        models: ModelsFile,
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

    def open_names(self, allows: Callable[[str], bool]) -> tuple[str, ...]:
        """Return the names that a key may use at present.

        Raises:
            ApiError: the state directory was not read yet.
        """
        return tuple(open_names(self._catalog(), self._aliases(), allows))

    async def models(self, request: Request) -> JSONResponse:
        """List the models that the key may use."""
        allows = request.scope["principal"].allows
        catalog = self._catalog()
        told = listing(catalog, self._aliases(), created=self._created, allows=allows)
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
        return JSONResponse(described(model, name, created=self._created))

    async def ready(self, request: Request) -> JSONResponse:
        """Answer 200 if a model is ready to serve, else 503."""
        del request
        models = [one for one in self._catalog().models.values() if one.base is None]
        ready = sum(1 for model in models if model.replicas)
        status = "ok" if ready else "no model is ready"
        body = {"status": status, "models": len(models), "ready": ready}
        return JSONResponse(body, status_code=200 if ready else 503)

    async def version(self, request: Request) -> JSONResponse:
        """Describe the version, and the state of models.yaml."""
        told = version(
            self._catalog(),
            self._models.outcome,
            digest=self._models.digest,
            path=self._models.path,
            allows=request.scope["principal"].allows,
        )
        return JSONResponse(told)

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics that the key may see, in Prometheus' text format."""
        text = await asyncio.to_thread(self._seen_by, request.scope["principal"])
        return Response(text, headers={"content-type": METRICS_TYPE})

    def _seen_by(self, key: ClientKey) -> bytes:
        text = self._metrics()
        if key.metrics or key.sees_all() or key.id == ANONYMOUS_ID:
            return text
        return prometheus_text.visible(text.decode(), key.name, key.allows).encode()
