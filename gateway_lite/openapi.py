"""What the gateway serves, told in OpenAPI 3.1: strict about our own words, open about engines'."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from gateway_lite import errors, schemas
from gateway_lite.docs import page
from hpc import __version__
from hpc.model import Phase

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
REQUEST_ID: Json = {
    "name": "x-request-id",
    "in": "header",
    "description": "Your name for the request: up to 128 of A-Za-z0-9._-",
    "schema": {"type": "string"},
}
MODEL_NAME: Json = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
MODEL_SHOWN: Json = {
    "name": "model",
    "in": "query",
    "description": "whose rates and times to tell; without it, those of all models",
    "schema": {"type": "string"},
}
RETRY = "seconds after which another try may succeed"
ALWAYS = (errors.unauthorized(), errors.keys_unusable(), errors.draining(), errors.internal())
"""What any path but the health checks may answer."""
MODEL = (
    errors.model_not_allowed("MODEL"),
    errors.model_not_found("MODEL"),
    errors.starting(),
)
WORK = (
    *MODEL,
    errors.bad_request("REASON"),
    errors.too_slow(),
    errors.too_large(1),
    errors.head_too_large(),
    errors.queue_full("MODEL"),
    errors.upstream_error("REASON"),
    errors.model_not_ready("MODEL", Phase.QUEUED),
    errors.queue_timeout("MODEL"),
    errors.upstream_timeout("REASON"),
)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(kind: str, schema: Json) -> Json:
    return {"content": {kind: {"schema": schema}}}


def _answer(description: str, **content: Json) -> Json:
    kinds = {"json": "application/json", "events": "text/event-stream", "text": "text/plain"}
    kinds |= {"html": "text/html", "lines": "application/x-ndjson"}
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    told = {kinds[kind]: {"schema": schema} for kind, schema in content.items()}
    return {"description": description, "headers": headers, "content": told}


def _errors(known: Iterable[errors.ApiError], *, engine: bool = False) -> Json:
    """Return the answers that are errors, by status.

    Args:
        known: those of ours.
        engine: an engine may have errors with the same status, in its own form.
    """
    by_status: defaultdict[int, list[errors.ApiError]] = defaultdict(list)
    for error in known:
        by_status[error.status].append(error)
    found: Json = {}
    for status, several in sorted(by_status.items()):
        codes = sorted({error.code for error in several})
        ours = {"allOf": [_ref("Error"), _with_code(codes)]}
        schema = {"anyOf": [ours, _ref("EngineError")]} if engine and status != 401 else ours
        answer = found[str(status)] = _answer(", ".join(f"`{code}`" for code in codes), json=schema)
        if any(name == b"retry-after" for error in several for name, _ in error.headers):
            retry = {"description": RETRY, "schema": {"type": "string"}}
            answer["headers"] = {**answer["headers"], "retry-after": retry}
    if engine:
        found["4XX"] = _answer("the engine's own refusal", json=_ref("EngineError"))
        found["5XX"] = _answer("the engine's own failure", json=_ref("EngineError"))
    return found


def _with_code(codes: list[str]) -> Json:
    code = {"properties": {"code": {"enum": codes}}}
    return {"properties": {"error": code}}


def _page(summary: str, answer: Json, *more: errors.ApiError, **further: Any) -> Json:
    responses = {"200": answer, **_errors((*ALWAYS, *more))}
    return {"summary": summary, "tags": ["gateway"], "responses": responses, **further}


def _work(summary: str, request: str, answer: str, *, streams: bool = False) -> Json:
    good = _answer("what the engine answers", json=_ref(answer))
    if streams:
        told = "what the engine answers; a stream's last event is `data: [DONE]`"
        good = _answer(told, json=_ref(answer), events={})
    return {
        "summary": summary,
        "tags": ["OpenAI"],
        "parameters": [REQUEST_ID],
        "requestBody": {"required": True, **_content("application/json", _ref(request))},
        "responses": {"200": good, **_errors((*ALWAYS, *WORK), engine=True)},
    }


def _ollama(summary: str, request: str) -> Json:
    lines = {"type": "string", "description": "one JSON object per line, the last with `done`"}
    kinds = {"json": {"type": "object"}, "lines": lines}
    told = {"400", "401", "403", "404", "408", "413", "429", "431", "4XX", "5XX"}
    failed = _answer("what went wrong, in words", json=_ref("OllamaError"))
    return {
        "summary": summary,
        "tags": ["Ollama"],
        "requestBody": {"required": True, **_content("application/json", _ref(request))},
        "responses": {"200": _answer("as Ollama answers", **kinds), **dict.fromkeys(told, failed)},
    }


def _health(summary: str) -> Json:
    answer = _answer("it does", json=_ref("Health"))
    responses = {"200": answer, **_errors([errors.draining()])}
    return {"summary": summary, "tags": ["gateway"], "security": [], "responses": responses}


TEXT = {"type": "string"}
UNREADY = {"503": _answer("no model is ready", json=_ref("Ready"))}
READY = _page("Could a request be served?", _answer("it could", json=_ref("Ready")))
READY["responses"] |= UNREADY
DASHBOARD: Json = {
    "summary": "What goes on, live",
    "tags": ["gateway"],
    "security": [],
    "responses": {
        "200": _answer("a page, which asks for a key", html=TEXT),
        **_errors([errors.draining(), errors.internal()]),
    },
}
OPERATIONS: dict[Way, Json] = {
    ("GET", "/healthz"): _health("Does the process serve?"),
    ("GET", "/health"): _health("The same, where clients of vLLM look for it"),
    ("GET", "/readyz"): READY,
    ("GET", "/version"): _page("Which version runs?", _answer("this", json=_ref("Version"))),
    ("GET", "/metrics"): _page("Counters for Prometheus", _answer("them", text=TEXT)),
    ("GET", "/openapi.json"): _page("This document", _answer("it", json={"type": "object"})),
    ("GET", "/docs"): _page("This document, to be read", _answer("a page", html=TEXT)),
    ("GET", "/dashboard"): DASHBOARD,
    ("GET", "/dashboard/data"): _page(
        "What the dashboard shows",
        _answer("models, rates, times and keys", json=_ref("Dashboard")),
        errors.model_not_allowed("MODEL"),
        errors.model_not_found("MODEL"),
        parameters=[MODEL_SHOWN],
    ),
    ("GET", "/v1/models"): _page(
        "Models that your key may use", _answer("them", json=_ref("ModelList")), errors.starting()
    ),
    ("GET", "/v1/models/{name}"): _page(
        "One model", _answer("it", json=_ref("Model")), *MODEL, parameters=[MODEL_NAME]
    ),
    ("POST", "/v1/chat/completions"): _work("Chat", "ChatRequest", "Completion", streams=True),
    ("POST", "/v1/completions"): _work(
        "Complete a text", "CompletionRequest", "Completion", streams=True
    ),
    ("POST", "/v1/responses"): _work("Respond", "ResponseRequest", "Completion", streams=True),
    ("POST", "/v1/embeddings"): _work("Embed texts", "EmbeddingRequest", "Completion"),
    ("POST", "/v1/rerank"): _work("Order documents", "RerankRequest", "Completion"),
    ("POST", "/api/chat"): _ollama("Chat, as with Ollama", "OllamaChatRequest"),
    ("POST", "/api/generate"): _ollama("Complete a text, as with Ollama", "OllamaRequest"),
    ("POST", "/api/embeddings"): _ollama("Embed a text, as with Ollama", "OllamaRequest"),
    ("POST", "/api/embed"): _ollama("Embed texts, as with Ollama", "OllamaRequest"),
    ("GET", "/api/tags"): _page("Models, as Ollama lists them", _answer("them", json={})),
    ("GET", "/api/ps"): _page("Models that serve, as Ollama lists them", _answer("them", json={})),
    ("POST", "/api/show"): _ollama("One model, as Ollama describes it", "OllamaRequest"),
    ("GET", "/api/version"): _page("Version, as Ollama tells it", _answer("it", json={})),
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
