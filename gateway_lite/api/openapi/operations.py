"""The building blocks of OpenAPI 3.1 operations."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from gateway_lite import errors
from gateway_lite.api.batches import common
from hpc.model import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    Json = dict[str, Any]
    from gateway_lite.errors import ApiError

REQUEST_ID: Json = {
    "name": "x-request-id",
    "in": "header",
    "description": "Your id for the request: up to 128 characters of A-Za-z0-9._-",
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
    "description": "The model whose rates and times are shown; without a model, all models",
    "schema": {"type": "string"},
}
RETRY = "Seconds after which another try may succeed"
PAGES = (errors.misdirected("HOST"), errors.cross_site())
"""Errors for requests of foreign web pages, at a gateway without keys."""
ALWAYS = (
    *(errors.unauthorized(), errors.keys_unusable(), errors.draining(), errors.internal()),
    *PAGES,
)
"""Errors that any path except the health checks may answer."""
MODEL = (
    errors.model_not_allowed("MODEL"),
    errors.model_not_found("MODEL"),
    errors.starting(),
)
WORK = (
    *MODEL,
    errors.bad_request("REASON"),
    errors.media_refused(),
    errors.not_json(),
    errors.unsupported_coding("CODING", "gzip, deflate"),
    errors.too_slow(),
    errors.too_large(1),
    errors.too_many_parts("1 values"),
    errors.busy(),
    errors.head_too_large(),
    errors.queue_full("MODEL"),
    errors.upstream_error("REASON"),
    errors.model_not_ready("MODEL", Phase.QUEUED),
    errors.queue_timeout("MODEL"),
    errors.upstream_timeout("REASON"),
)


def ref(name: str) -> Json:
    """Return a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def content_of(kind: str, schema: Json) -> Json:
    """Return content of one media type."""
    return {"content": {kind: {"schema": schema}}}


def answer_of(description: str, **content: Json) -> Json:
    """Return an answer with description, and schemas by media type."""
    kinds = {"json": "application/json", "events": "text/event-stream", "text": "text/plain"}
    kinds |= {"html": "text/html", "lines": "application/x-ndjson"}
    headers = {"x-request-id": {"schema": {"type": "string"}}}
    told = {kinds[kind]: {"schema": schema} for kind, schema in content.items()}
    return {"description": description, "headers": headers, "content": told}


def errors_of(known: Iterable[errors.ApiError], *, engine: bool = False) -> Json:
    """Return the error answers, by status.

    Args:
        known: the gateway's errors.
        engine: True if an engine may answer errors of the same status, in its own form.
    """
    by_status: defaultdict[int, list[errors.ApiError]] = defaultdict(list)
    for error in known:
        by_status[error.status].append(error)
    found: Json = {}
    for status, several in sorted(by_status.items()):
        codes = sorted({error.code for error in several})
        ours = {"allOf": [ref("Error"), _with_code(codes)]}
        schema = {"anyOf": [ours, ref("EngineError")]} if engine and status != 401 else ours
        answer = found[str(status)] = answer_of(
            ", ".join(f"`{code}`" for code in codes), json=schema
        )
        if any(name == b"retry-after" for error in several for name, _ in error.headers):
            retry = {"description": RETRY, "schema": {"type": "string"}}
            answer["headers"] = {**answer["headers"], "retry-after": retry}
    if engine:
        found["4XX"] = answer_of("A refusal by the engine", json=ref("EngineError"))
        found["5XX"] = answer_of("A failure of the engine", json=ref("EngineError"))
    return found


def _with_code(codes: list[str]) -> Json:
    code = {"properties": {"code": {"enum": codes}}}
    return {"properties": {"error": code}}


def page_of(summary: str, answer: Json, *more: errors.ApiError, **further: Any) -> Json:
    """Return an operation that the gateway answers without a replica."""
    responses = {"200": answer, **errors_of((*ALWAYS, *more))}
    return {"summary": summary, "tags": ["gateway"], "responses": responses, **further}


def work_of(summary: str, request: str, answer: str, *, streams: bool = False) -> Json:
    """Return an operation that an engine answers."""
    good = answer_of("The engine's answer, unchanged", json=ref(answer))
    if streams:
        told = "The engine's answer, unchanged; a stream's last event is `data: [DONE]`"
        good = answer_of(told, json=ref(answer), events={})
    return {
        "summary": summary,
        "tags": ["OpenAI"],
        "parameters": [REQUEST_ID],
        "requestBody": {"required": True, **content_of("application/json", ref(request))},
        "responses": {"200": good, **errors_of((*ALWAYS, *WORK), engine=True)},
    }


def ollama_of(summary: str, request: str | None = None) -> Json:
    """Return an operation in Ollama's form.

    Args:
        summary: the operation in a few words.
        request: name of the request's schema; None for an operation without a body.
    """
    lines = {"type": "string", "description": "One JSON object per line, the last with `done`"}
    kinds = {"json": {"type": "object"}, "lines": lines}
    told = {"400", "401", "403", "404", "408", "413", "415", "421", "429", "431", "4XX", "5XX"}
    failed = answer_of("The reason of the failure, in words", json=ref("OllamaError"))
    asked: Json = {}
    if request is not None:
        asked["requestBody"] = {"required": True, **content_of("application/json", ref(request))}
    return {
        "summary": summary,
        "tags": ["Ollama"],
        **asked,
        "responses": {
            "200": answer_of("The answer in Ollama's form", **kinds),
            **dict.fromkeys(told, failed),
        },
    }


def anthropic_of(summary: str, request: str, answer: str, *, streams: bool = False) -> Json:
    """Return an operation in Anthropic's form."""
    told = {"400", "401", "403", "404", "408", "413", "415", "421", "429", "431", "4XX", "5XX"}
    failed = answer_of("The kind of the failure, and its reason", json=ref("AnthropicError"))
    events: Json = {"events": {}} if streams else {}
    good = answer_of("The answer in Anthropic's form", json=ref(answer), **events)
    return {
        "summary": summary,
        "tags": ["Anthropic"],
        "requestBody": {"required": True, **content_of("application/json", ref(request))},
        "responses": {"200": good, **dict.fromkeys(told, failed)},
    }


def health_of(summary: str) -> Json:
    """Return an operation that needs no key."""
    answer = answer_of("The process accepts requests", json=ref("Health"))
    responses = {"200": answer, **errors_of([errors.draining(), *PAGES])}
    return {"summary": summary, "tags": ["gateway"], "security": [], "responses": responses}


TEXT = {"type": "string"}
AFTER: Json = {
    "name": "after",
    "in": "query",
    "schema": TEXT,
    "description": "The id of the previous page's last entry",
}
COUNT: Json = {"type": "integer", "minimum": 1, "maximum": 10_000}
LIMIT: Json = {"name": "limit", "in": "query", "schema": COUNT}
PURPOSE: Json = {"name": "purpose", "in": "query", "schema": TEXT}
ORDER: Json = {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"]}}
FAILS = (common.off(), common.trouble())
BODY = (errors.bad_request("REASON"), errors.too_large(1), errors.too_slow())
NO_FILE, NO_BATCH = common.no_file("FILE"), common.no_batch("BATCH")
ANSWERS = {
    "File": "The file's description",
    "FileList": "One page of the key's files",
    "FileDeleted": "The confirmation of the removal",
    "Batch": "The batch's description",
    "BatchList": "One page of the key's batches",
}


def _id(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {**TEXT, "minLength": 1}}


def _of(
    summary: str, schema: str, *more: ApiError, parameters: list[Json], body: Json | None = None
) -> Json:
    answer = answer_of(ANSWERS[schema], json=ref(schema))
    further: Json = {"parameters": parameters}
    if body is not None:
        further["requestBody"] = {"required": True, **body}
    return {**page_of(summary, answer, *FAILS, *more, **further), "tags": ["Files and batches"]}


CONTENT = _of("The content of a file", "File", NO_FILE, parameters=[_id("file_id")])
CONTENT["responses"]["200"]["description"] = "The bytes of the file, or of the requested range"
CONTENT["responses"]["200"]["content"] = {"application/octet-stream": {"schema": {}}}
CONTENT["responses"]["206"] = CONTENT["responses"]["200"]
OPERATIONS: dict[tuple[str, str], Json] = {
    ("GET", "/v1/files"): _of(
        "The files of your key", "FileList", BODY[0], parameters=[AFTER, LIMIT, PURPOSE, ORDER]
    ),
    ("POST", "/v1/files"): _of(
        "Upload a file of requests",
        "File",
        *BODY,
        common.full(1),
        common.too_many_files(1),
        parameters=[],
        body=content_of("multipart/form-data", ref("FileUpload")),
    ),
    ("GET", "/v1/files/{file_id}"): _of(
        "Describe a file", "File", NO_FILE, parameters=[_id("file_id")]
    ),
    ("DELETE", "/v1/files/{file_id}"): _of(
        "Remove a file", "FileDeleted", NO_FILE, parameters=[_id("file_id")]
    ),
    ("GET", "/v1/files/{file_id}/content"): CONTENT,
    ("GET", "/v1/batches"): _of(
        "The batches of your key", "BatchList", BODY[0], parameters=[AFTER, LIMIT]
    ),
    ("POST", "/v1/batches"): _of(
        "Create a batch that answers the requests of a file",
        "Batch",
        *BODY,
        common.too_many_batches(1),
        NO_FILE,
        parameters=[],
        body=content_of("application/json", ref("BatchRequest")),
    ),
    ("GET", "/v1/batches/{batch_id}"): _of(
        "Describe a batch", "Batch", NO_BATCH, parameters=[_id("batch_id")]
    ),
    ("POST", "/v1/batches/{batch_id}/cancel"): _of(
        "Cancel a batch",
        "Batch",
        NO_BATCH,
        common.over("BATCH", "over"),
        parameters=[_id("batch_id")],
    ),
}
