"""The pages of Ollama's API that need no engine: models and version."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api.status import open_names
from gateway_lite.routing.model_rules import LATEST
from gateway_lite.wire.asgi import read_body
from gateway_lite.wire.tolerant_json import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    name, _ = asked(body)
    model = named(name, models)
    info: dict[str, Any] = {"general.architecture": "llm", "general.basename": model.name}
    if model.context:
        info["llm.context_length"] = model.context
    entry = _entry(model)
    made = {
        **dict.fromkeys(("modelfile", "parameters", "template", "license"), ""),
        "details": entry["details"],
        "model_info": info,
        "capabilities": model.capabilities,
        "modified_at": entry["modified_at"],
    }
    return msgspec.json.encode(made)


def pull(body: bytes, models: Sequence[Listed]) -> tuple[bytes, str]:
    """Return the answer to POST /api/pull, and its content type: what is served is there.

    Raises:
        ApiError: the request is malformed, or the model unknown.
    """
    name, stream = asked(body)
    try:
        named(name, models)
    except errors.ApiError as error:
        raise errors.ApiError(
            error.status,
            f"the model {name[: errors.LONGEST]!r} is not served here, and none is pulled; a new"
            " model is started with 'hpc-serve submit'",
            code=error.code,
        ) from None
    if not stream:
        return msgspec.json.encode({"status": "success"}), "application/json"
    steps = ("pulling manifest", "verifying sha256 digest", "success")
    return b"".join(msgspec.json.encode({"status": step}) + b"\n" for step in steps), LINES


def asked(body: bytes) -> tuple[str, bool]:
    """Return the model that a request names, and whether the answer is a stream.

    Raises:
        ApiError: the request is malformed.
    """
    try:
        said = msgspec.json.decode(body)
        name = str(said.get("model") or said.get("name") or "")
    except (*UNREADABLE, AttributeError):
        raise errors.bad_request("the request is no JSON object") from None
    return name, said.get("stream") is not False


def named(name: str, models: Sequence[Listed]) -> Listed:
    """Return the model of a name, with or without Ollama's usual tag.

    Raises:
        ApiError: no model has the name.
    """
    known = {model.name: model for model in models}
    found = known.get(name) or known.get(name.removesuffix(LATEST))
    if found is None:
        raise errors.model_not_found(name)
    return found


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
ROOT = "/"
RUNS = "Ollama is running"
"""The answer by which Ollama's clients know that a server is there."""
LINES = "application/x-ndjson"


class OllamaPages:
    """Ollama's lists, made from the catalog.

    Args:
        catalog: returns the current catalog, or raises an ApiError.
        aliases: returns the model of each alias.
    """

    def __init__(
        self, catalog: Callable[[], Catalog], aliases: Callable[[], Mapping[str, str]]
    ) -> None:
        self._catalog = catalog
        self._aliases = aliases
        self._since = time.time()

    def routes(self) -> list[Route]:
        """Return the routes of these pages."""
        return [
            Route(ROOT, self.root),
            Route("/api/version", self.version),
            Route("/api/tags", self.tags),
            Route("/api/ps", self.ps),
            Route("/api/show", self.show, methods=["POST"]),
            Route("/api/pull", self.pull, methods=["POST"]),
        ]

    async def root(self, request: Request) -> Response:
        """Answer a client that looks whether the server is there."""
        del request
        return PlainTextResponse(RUNS)

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

    async def pull(self, request: Request) -> Response:
        """Report that a model open to the key is there."""
        body = await read_body(request.scope, request.receive, ASKED_BYTES)
        told, kind = pull(body, self._listed(request))
        return Response(told, media_type=kind)

    def _listed(self, request: Request, *, ready: bool = False) -> list[Listed]:
        models = self._catalog().models
        names = open_names(self._catalog(), self._aliases(), request.scope["principal"].allows)
        return [
            self._entry(name, models[model])
            for name, model in names.items()
            if models[model].replicas or not ready
        ]

    def _entry(self, name: str, model: Model) -> Listed:
        return Listed(name, self._since, model.identity, model.engine or "")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
