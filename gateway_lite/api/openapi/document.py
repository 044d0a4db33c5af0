"""The gateway's OpenAPI 3.1 document: strict about the gateway's fields, open about engines'."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import errors
from gateway_lite.api.openapi import operations, schemas
from gateway_lite.api.openapi.operations import (
    MODEL,
    MODEL_NAME,
    MODEL_SHOWN,
    TEXT,
    answer_of,
    anthropic_of,
    errors_of,
    health_of,
    ollama_of,
    page_of,
    ref,
    work_of,
)
from gateway_lite.api.openapi.page import page
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    Json = dict[str, Any]
    Way = tuple[str, str]

ABOUT = """\
OpenAI's API in front of the models of a Slurm cluster. Each request goes to an engine that serves
its `model`, and the engine's answer comes back unchanged. The fields that the gateway itself reads
are described here; all other fields are passed on to the engine."""
CLOSED = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The page's content security policy: no external resource, no script, no frame."""
UNREADY = {"503": answer_of("No model is ready to serve", json=ref("Ready"))}
READY = page_of(
    "Readiness: is a model ready to serve?",
    answer_of("At least one model is ready to serve", json=ref("Ready")),
)
READY["responses"] |= UNREADY
ROOT: Json = {
    "summary": "A sign of life, as Ollama's clients know it",
    "tags": ["Ollama"],
    "security": [],
    "responses": {
        "200": answer_of("`Ollama is running`", text=TEXT),
        **errors_of([errors.draining(), errors.internal()]),
    },
}
DASHBOARD: Json = {
    "summary": "The live dashboard, a page for browsers",
    "tags": ["gateway"],
    "security": [],
    "responses": {
        "200": answer_of("The page, which asks the user for a key", html=TEXT),
        **errors_of([errors.draining(), errors.internal()]),
    },
}
OPERATIONS: dict[Way, Json] = {
    ("GET", "/healthz"): health_of("Health of the gateway process"),
    ("GET", "/health"): health_of("Health of the gateway process, at vLLM's path"),
    ("GET", "/readyz"): READY,
    ("GET", "/version"): page_of(
        "Version and configuration of the gateway",
        answer_of("Version, state of models.yaml, and your models", json=ref("Version")),
    ),
    ("GET", "/metrics"): page_of(
        "Metrics for Prometheus", answer_of("Metrics in Prometheus' text format", text=TEXT)
    ),
    ("GET", "/openapi.json"): page_of(
        "This OpenAPI document", answer_of("The document as JSON", json={"type": "object"})
    ),
    ("GET", "/docs"): page_of(
        "This OpenAPI document as a page", answer_of("The document as HTML", html=TEXT)
    ),
    ("GET", "/dashboard"): DASHBOARD,
    ("GET", "/dashboard/data"): page_of(
        "The data of the dashboard",
        answer_of("Models, rates, times and keys", json=ref("Dashboard")),
        errors.model_not_allowed("MODEL"),
        errors.model_not_found("MODEL"),
        parameters=[MODEL_SHOWN],
    ),
    ("GET", "/v1/models"): page_of(
        "Models that your key may use",
        answer_of("The models, with their aliases", json=ref("ModelList")),
        errors.starting(),
    ),
    ("GET", "/v1/models/{name}"): page_of(
        "Describe a model",
        answer_of("The model's description", json=ref("Model")),
        *MODEL,
        parameters=[MODEL_NAME],
    ),
    ("POST", "/v1/chat/completions"): work_of(
        "Continue a chat", "ChatRequest", "Completion", streams=True
    ),
    ("POST", "/v1/completions"): work_of(
        "Complete a text", "CompletionRequest", "Completion", streams=True
    ),
    ("POST", "/v1/responses"): work_of(
        "Create a response", "ResponseRequest", "Completion", streams=True
    ),
    ("POST", "/v1/embeddings"): work_of("Embed texts", "EmbeddingRequest", "Completion"),
    ("POST", "/v1/rerank"): work_of("Rank documents by a query", "RerankRequest", "Completion"),
    ("POST", "/v1/messages"): anthropic_of(
        "Continue a chat (Anthropic's API)", "MessagesRequest", "Message", streams=True
    ),
    ("POST", "/v1/messages/count_tokens"): anthropic_of(
        "Count the tokens of a chat (Anthropic's API)", "CountRequest", "TokenCount"
    ),
    ("POST", "/api/chat"): ollama_of("Continue a chat (Ollama's API)", "OllamaChatRequest"),
    ("POST", "/api/generate"): ollama_of("Complete a text (Ollama's API)", "OllamaRequest"),
    ("POST", "/api/embeddings"): ollama_of("Embed a text (Ollama's API)", "OllamaRequest"),
    ("POST", "/api/embed"): ollama_of("Embed texts (Ollama's API)", "OllamaRequest"),
    ("GET", "/api/tags"): ollama_of("Models that your key may use (Ollama's API)"),
    ("GET", "/api/ps"): ollama_of("Models with a ready replica (Ollama's API)"),
    ("POST", "/api/show"): ollama_of("Describe a model (Ollama's API)", "OllamaRequest"),
    ("POST", "/api/pull"): ollama_of("See that a model is served (Ollama's API)", "OllamaRequest"),
    ("GET", "/"): ROOT,
    ("GET", "/api/version"): ollama_of("Version of the gateway (Ollama's API)"),
    **operations.OPERATIONS,
}


def document(served: Iterable[Way]) -> Json:
    """Return the OpenAPI document of a gateway.

    Args:
        served: method and path of all served operations.

    Raises:
        KeyError: a served operation has no description.
    """
    paths: defaultdict[str, Json] = defaultdict(dict)
    for method, path in sorted(set(served)):
        about = OPERATIONS[method, path]
        paths[path][method.lower()] = {"operationId": _name(method, path), **about}
    told = "Your key, hs-..."
    keys: Json = {"key": {"type": "http", "scheme": "bearer", "description": told}}
    keys |= {
        name: {"type": "apiKey", "in": "header", "name": name, "description": told}
        for name in ("x-api-key", "api-key")
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "hpc-serve gateway", "version": __version__, "description": ABOUT},
        "paths": dict(paths),
        "components": {"schemas": schemas.SCHEMAS, "securitySchemes": keys},
        "security": [{name: []} for name in keys],
    }


def _name(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "/").strip("/").split("/")
    return "_".join([method.lower(), *words])


class Documents:
    """The OpenAPI document and its page, both made at the first request.

    Args:
        served: method and path of all other operations of the gateway.
    """

    OWN = (("GET", "/openapi.json"), ("GET", "/docs"))

    def __init__(self, served: Iterable[Way]) -> None:
        self._served = (*served, *self.OWN)
        self._json = self._html = b""

    def routes(self) -> list[Route]:
        """Return the routes of the document and the page."""
        return [Route("/openapi.json", self.json), Route("/docs", self.html)]

    async def json(self, request: Request) -> Response:
        """Answer with the document."""
        del request
        self._json = self._json or json.dumps(document(self._served)).encode()
        return Response(self._json, media_type="application/json")

    async def html(self, request: Request) -> Response:
        """Answer with the document as a self-contained page."""
        del request
        self._html = self._html or page(document(self._served)).encode()
        return Response(
            self._html, media_type="text/html", headers={"content-security-policy": CLOSED}
        )
