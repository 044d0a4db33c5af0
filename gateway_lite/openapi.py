"""What the gateway serves, told in OpenAPI 3.1: strict about our own words, open about engines'."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import described_files, errors, schemas
from gateway_lite.described import (
    MODEL,
    MODEL_NAME,
    MODEL_SHOWN,
    TEXT,
    answer_of,
    errors_of,
    health_of,
    ollama_of,
    page_of,
    ref,
    work_of,
)
from gateway_lite.docs import page
from hpc import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request

    Json = dict[str, Any]
    Way = tuple[str, str]

ABOUT = """\
OpenAI's API in front of the models of a Slurm cluster. Requests go to the engine that serves their
`model`, and its answers come back as they are. What the gateway itself looks at is described here;
all other fields are the engine's business."""
CLOSED = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""What the page may load: nothing."""
UNREADY = {"503": answer_of("no model is ready", json=ref("Ready"))}
READY = page_of("Could a request be served?", answer_of("it could", json=ref("Ready")))
READY["responses"] |= UNREADY
DASHBOARD: Json = {
    "summary": "What goes on, live",
    "tags": ["gateway"],
    "security": [],
    "responses": {
        "200": answer_of("a page, which asks for a key", html=TEXT),
        **errors_of([errors.draining(), errors.internal()]),
    },
}
OPERATIONS: dict[Way, Json] = {
    ("GET", "/healthz"): health_of("Does the process serve?"),
    ("GET", "/health"): health_of("The same, where clients of vLLM look for it"),
    ("GET", "/readyz"): READY,
    ("GET", "/version"): page_of("Which version runs?", answer_of("this", json=ref("Version"))),
    ("GET", "/metrics"): page_of("Counters for Prometheus", answer_of("them", text=TEXT)),
    ("GET", "/openapi.json"): page_of("This document", answer_of("it", json={"type": "object"})),
    ("GET", "/docs"): page_of("This document, to be read", answer_of("a page", html=TEXT)),
    ("GET", "/dashboard"): DASHBOARD,
    ("GET", "/dashboard/data"): page_of(
        "What the dashboard shows",
        answer_of("models, rates, times and keys", json=ref("Dashboard")),
        errors.model_not_allowed("MODEL"),
        errors.model_not_found("MODEL"),
        parameters=[MODEL_SHOWN],
    ),
    ("GET", "/v1/models"): page_of(
        "Models that your key may use", answer_of("them", json=ref("ModelList")), errors.starting()
    ),
    ("GET", "/v1/models/{name}"): page_of(
        "One model", answer_of("it", json=ref("Model")), *MODEL, parameters=[MODEL_NAME]
    ),
    ("POST", "/v1/chat/completions"): work_of("Chat", "ChatRequest", "Completion", streams=True),
    ("POST", "/v1/completions"): work_of(
        "Complete a text", "CompletionRequest", "Completion", streams=True
    ),
    ("POST", "/v1/responses"): work_of("Respond", "ResponseRequest", "Completion", streams=True),
    ("POST", "/v1/embeddings"): work_of("Embed texts", "EmbeddingRequest", "Completion"),
    ("POST", "/v1/rerank"): work_of("Order documents", "RerankRequest", "Completion"),
    ("POST", "/api/chat"): ollama_of("Chat, as with Ollama", "OllamaChatRequest"),
    ("POST", "/api/generate"): ollama_of("Complete a text, as with Ollama", "OllamaRequest"),
    ("POST", "/api/embeddings"): ollama_of("Embed a text, as with Ollama", "OllamaRequest"),
    ("POST", "/api/embed"): ollama_of("Embed texts, as with Ollama", "OllamaRequest"),
    ("GET", "/api/tags"): page_of("Models, as Ollama lists them", answer_of("them", json={})),
    ("GET", "/api/ps"): page_of(
        "Models that serve, as Ollama lists them", answer_of("them", json={})
    ),
    ("POST", "/api/show"): ollama_of("One model, as Ollama describes it", "OllamaRequest"),
    ("GET", "/api/version"): page_of("Version, as Ollama tells it", answer_of("it", json={})),
    **described_files.OPERATIONS,
}


def document(served: Iterable[Way]) -> Json:
    """Return the OpenAPI document of a gateway.

    Args:
        served: method and path of everything that it serves.

    Raises:
        KeyError: something is served that nobody has described.
    """
    paths: defaultdict[str, Json] = defaultdict(dict)
    for method, path in sorted(set(served)):
        about = OPERATIONS[method, path]
        paths[path][method.lower()] = {"operationId": _name(method, path), **about}
    bearer = {"type": "http", "scheme": "bearer", "description": "your key, hs-..."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "hpc-serve gateway", "version": __version__, "description": ABOUT},
        "paths": dict(paths),
        "components": {"schemas": schemas.SCHEMAS, "securitySchemes": {"key": bearer}},
        "security": [{"key": []}],
    }


def _name(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "/").strip("/").split("/")
    return "_".join([method.lower(), *words])


class Documents:
    """The document and the page made of it; both made once, when somebody first asks.

    Args:
        served: method and path of everything else that the gateway serves.
    """

    OWN = (("GET", "/openapi.json"), ("GET", "/docs"))

    def __init__(self, served: Iterable[Way]) -> None:
        self._served = (*served, *self.OWN)
        self._json = self._html = b""

    def routes(self) -> list[Route]:
        """Return the paths served here."""
        return [Route("/openapi.json", self.json), Route("/docs", self.html)]

    async def json(self, request: Request) -> Response:
        """Answer with the document."""
        del request
        self._json = self._json or json.dumps(document(self._served)).encode()
        return Response(self._json, media_type="application/json")

    async def html(self, request: Request) -> Response:
        """Answer with a page that shows it, and needs nothing from elsewhere."""
        del request
        self._html = self._html or page(document(self._served)).encode()
        return Response(
            self._html, media_type="text/html", headers={"content-security-policy": CLOSED}
        )
