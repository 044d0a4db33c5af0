"""The pages of Ollama's API that need no engine: models and version."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.features.ollama.answers import UNREADABLE
from gateway_lite.wire.asgi import read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from gateway_lite.catalog.models import Catalog, Model

VERSION = "0.12.6"
"""The reported release of Ollama's API; clients check it before they use newer features."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model in a list.

    Args:
        name: model name.
        since_s: seconds since 1970 at which the model was configured or started.
        revision: fingerprint that differs between models of the same name.
        engine: name of the engine.
        context: context length in tokens; 0 means unknown.
        capabilities: Ollama's words for the model's capabilities.
    """

    name: str
    since_s: float = 0.0
    revision: str = ""
    engine: str = ""
    context: int = 0
    capabilities: tuple[str, ...] = ("completion", "tools")


def version() -> bytes:
    """Return the answer to GET /api/version."""
    return msgspec.json.encode({"version": VERSION})


def tags(models: Sequence[Listed]) -> bytes:
    """Return the answer to GET /api/tags: all models."""
    return msgspec.json.encode({"models": [_entry(model) for model in models]})


def ps(models: Sequence[Listed]) -> bytes:
    """Return the answer to GET /api/ps: the loaded models."""
    entries = [
        {**_entry(model), "expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        | ({"context_length": model.context} if model.context else {})
        for model in models
    ]
    return msgspec.json.encode({"models": entries})


def show(body: bytes, models: Sequence[Listed]) -> bytes:
    """Return the answer to POST /api/show.

    Raises:
        ApiError: the request is malformed, or the model unknown.
    """
    try:
        asked = msgspec.json.decode(body)
        name = str(asked.get("model") or asked.get("name") or "")
    except (*UNREADABLE, AttributeError):
        raise errors.bad_request("the request is no JSON object") from None
    found = [m for m in models if m.name in {name, name.removesuffix(":latest")}]
    if not found:
        raise errors.model_not_found(name)
    model = found[0]
    info: dict[str, Any] = {"general.architecture": "llm", "general.basename": model.name}
    if model.context:
        info["llm.context_length"] = model.context
    entry = _entry(model)
    made = {
        **dict.fromkeys(("modelfile", "parameters", "template", "license"), ""),
        **({"parameters": f"num_ctx {model.context}"} if model.context else {}),
        "details": entry["details"],
        "model_info": info,
        "capabilities": model.capabilities,
        "modified_at": entry["modified_at"],
    }
    return msgspec.json.encode(made)


def _entry(model: Listed) -> dict[str, Any]:
    """Return a model's entry in a list."""
    since = datetime.fromtimestamp(model.since_s, timezone.utc).isoformat()
    details = {
        **dict.fromkeys(("parent_model", "family", "parameter_size", "quantization_level"), ""),
        "format": model.engine,
        "families": [],
    }
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": since.replace("+00:00", "Z"),
        "size": 0,
        "digest": hashlib.sha256(f"{model.name}\0{model.revision}".encode()).hexdigest(),
        "details": details,
    }


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
        return _json(version())

    async def tags(self, request: Request) -> Response:
        """List the models that the key may use."""
        return _json(tags(self._listed(request)))

    async def ps(self, request: Request) -> Response:
        """List the models with a ready replica that the key may use."""
        return _json(ps(self._listed(request, ready=True)))

    async def show(self, request: Request) -> Response:
        """Describe a model open to the key."""
        body = await read_body(request.scope, request.receive, ASKED_BYTES)
        return _json(show(body, self._listed(request)))

    def _listed(self, request: Request, *, ready: bool = False) -> list[Listed]:
        allowed = request.scope["principal"].allows
        known = self._catalog().models.values()
        return [
            self._entry(model)
            for model in known
            if allowed(model.name) and (model.ready or not ready)
        ]

    def _entry(self, model: Model) -> Listed:
        engine, context = model.engine or "", model.context or 0
        return Listed(model.name, self._since, model.identity, engine, context)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
