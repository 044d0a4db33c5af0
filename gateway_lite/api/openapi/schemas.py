"""JSON schemas of the gateway's requests and answers."""

from __future__ import annotations

from typing import Any

from hpc.model import Phase
from hpc.openai_batches.records import ENDPOINTS

Json = dict[str, Any]
TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
TIME: Json = {"type": ["number", "null"], "description": "Seconds since 1970"}
LIMIT: Json = {"type": ["integer", "null"], "minimum": 1, "description": "Most tokens to generate"}
NAME: Json = {**TEXT, "minLength": 1, "description": "A model or alias listed by /v1/models"}
STREAM: Json = {"type": ["boolean", "null"], "description": "True sends the answer as a stream"}


def _closed(**properties: Json) -> Json:
    """Return the schema of a gateway object: all fields are required, and no others allowed."""
    shape = {"type": "object", "properties": properties, "required": [*properties]}
    return {**shape, "additionalProperties": False}


def _open(example: Json, **properties: Json) -> Json:
    """Return the schema of a request; further fields are passed on to the engine."""
    known = {"model": NAME, **properties}
    return {"type": "object", "properties": known, "required": ["model"], "examples": [example]}


ERROR = _closed(
    message={**TEXT, "description": "The failure and its object, in words"},
    type={
        "enum": ["invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"]
    },
    param={"type": ["string", "null"], "description": "The request's field at fault"},
    code={**TEXT, "description": "A stable code, for programs"},
)
REPLICAS = _closed(ready=COUNT, asked=COUNT)
MODEL = _closed(
    id=TEXT,
    object={"const": "model"},
    created=COUNT,
    owned_by=TEXT,
    type={"const": "model"},
    display_name=TEXT,
    created_at={**TEXT, "format": "date-time"},
    lifecycle={"const": "active"},
    phase={"enum": [phase.value for phase in Phase]},
    replicas=REPLICAS,
)
FILE = _closed(taken_at=TIME, refused={"type": ["string", "null"]}, refused_at=TIME)
MESSAGES: Json = {"type": "array", "items": {"type": "object"}}
HELLO = [{"role": "user", "content": "Hello"}]
SAMPLING: Json = {
    "stream": STREAM,
    "max_tokens": LIMIT,
    "temperature": {"type": ["number", "null"]},
    "user": {"type": ["string", "null"]},
}
MANY: Json = {"description": "A text, or a list of texts"}
WHEN: Json = {"type": ["integer", "null"], "description": "Seconds since 1970"}
STATUSES = (
    *("validating", "failed", "in_progress", "finalizing"),
    *("completed", "expired", "cancelling", "cancelled"),
)
NOTES: Json = {
    "type": ["object", "null"],
    "additionalProperties": {**TEXT, "maxLength": 512},
    "propertyNames": {"maxLength": 64},
    "maxProperties": 16,
}
WINDOW: Json = {**TEXT, "description": "`24h`, or another number of hours or days up to `30d`"}


def _list(name: str) -> Json:
    some: Json = {"type": ["string", "null"]}
    return _closed(
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
        first_id=some,
        last_id=some,
        has_more={"type": "boolean"},
    )


BATCH_ERROR = _closed(
    code=TEXT,
    message=TEXT,
    param={"type": ["string", "null"]},
    line={"type": ["integer", "null"], "description": "Number of the file's line, from 1"},
)
USAGE = _closed(
    input_tokens=COUNT,
    input_tokens_details=_closed(cached_tokens=COUNT),
    output_tokens=COUNT,
    output_tokens_details=_closed(reasoning_tokens=COUNT),
    total_tokens=COUNT,
)
LIFETIME: Json = {
    **_closed(
        anchor={"const": "created_at"},
        seconds={"type": "integer", "minimum": 3600, "maximum": 2592000},
    ),
    "description": "Time after which the file is removed",
}
SOME_FILE: Json = {"type": ["string", "null"], "description": "Id of a file of results"}
FILE_SCHEMAS: Json = {
    "File": _closed(
        id=TEXT,
        object={"const": "file"},
        bytes=COUNT,
        created_at=COUNT,
        filename=TEXT,
        purpose={"enum": ["batch", "batch_output"]},
        status={"const": "processed"},
        expires_at=WHEN,
    ),
    "FileList": _list("File"),
    "FileDeleted": _closed(id=TEXT, object={"const": "file"}, deleted={"const": True}),
    "FileUpload": {
        "type": "object",
        "properties": {
            "purpose": {"const": "batch"},
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "expires_after[anchor]": LIFETIME["properties"]["anchor"],
            "expires_after[seconds]": LIFETIME["properties"]["seconds"],
        },
        "required": ["purpose", "file"],
    },
    "BatchRequest": {
        "type": "object",
        "properties": {
            "input_file_id": {**TEXT, "description": "Id of an uploaded file of your key"},
            "endpoint": {"enum": [*ENDPOINTS]},
            "completion_window": WINDOW,
            "metadata": NOTES,
            "output_expires_after": {"anyOf": [{"type": "null"}, LIFETIME]},
        },
        "required": ["input_file_id", "endpoint", "completion_window"],
        "additionalProperties": False,
        "examples": [
            {
                "input_file_id": "file-0123456789abcdef01234567",
                "endpoint": ENDPOINTS[0],
                "completion_window": "24h",
            }
        ],
    },
    "Batch": _closed(
        id=TEXT,
        object={"const": "batch"},
        endpoint={"enum": [*ENDPOINTS]},
        errors={
            "anyOf": [
                {"type": "null"},
                _closed(object={"const": "list"}, data={"type": "array", "items": BATCH_ERROR}),
            ]
        },
        input_file_id=TEXT,
        completion_window=WINDOW,
        status={"enum": [*STATUSES]},
        output_file_id=SOME_FILE,
        error_file_id=SOME_FILE,
        created_at=COUNT,
        expires_at=COUNT,
        in_progress_at=WHEN,
        finalizing_at=WHEN,
        completed_at=WHEN,
        failed_at=WHEN,
        expired_at=WHEN,
        cancelling_at=WHEN,
        cancelled_at=WHEN,
        request_counts=_closed(total=COUNT, completed=COUNT, failed=COUNT),
        usage={"anyOf": [{"type": "null"}, USAGE]},
        metadata=NOTES,
    ),
    "BatchList": _list("Batch"),
}
SCHEMAS: Json = {
    "Error": _closed(error=ERROR),
    "EngineError": {"type": "object", "description": "An error in the engine's own form"},
    "OllamaError": {"type": "object", "properties": {"error": TEXT}, "required": ["error"]},
    "AnthropicError": _closed(type={"const": "error"}, error=_closed(type=TEXT, message=TEXT)),
    "Message": {"type": "object", "description": "A message in Anthropic's form"},
    "TokenCount": _closed(input_tokens=COUNT),
    "Health": _closed(status={"const": "ok"}),
    "Ready": _closed(status=TEXT, models=COUNT, ready=COUNT),
    "Version": {
        **_closed(name={"const": "hpc-serve"}, version=TEXT, models_file=FILE),
        "additionalProperties": True,
    },
    "Dashboard": {
        "type": "object",
        "required": [
            *("time", "gateway", "you", "models_file", "model"),
            *("models", "windows", "chart", "keys"),
        ],
    },
    "Model": {**MODEL, "additionalProperties": True},
    "ModelList": _list("Model"),
    "ChatRequest": _open({"model": "MODEL", "messages": HELLO}, messages=MESSAGES, **SAMPLING),
    "CompletionRequest": _open({"model": "MODEL", "prompt": "Once"}, prompt=MANY, **SAMPLING),
    "ResponseRequest": _open(
        {"model": "MODEL", "input": "Hello"}, input=MANY, stream=STREAM, max_output_tokens=LIMIT
    ),
    "EmbeddingRequest": _open({"model": "MODEL", "input": "Hello"}, input=MANY),
    "RerankRequest": _open(
        {"model": "MODEL", "query": "tea", "documents": ["tea", "coal"]},
        query=TEXT,
        documents={"type": "array"},
    ),
    "MessagesRequest": {
        **_open(
            {"model": "MODEL", "messages": HELLO, "max_tokens": 100},
            messages=MESSAGES,
            max_tokens={"type": "integer", "minimum": 1},
            system={"description": "A text, or a list of text blocks"},
            stream=STREAM,
        ),
        "required": ["model", "messages", "max_tokens"],
    },
    "CountRequest": {
        **_open({"model": "MODEL", "messages": HELLO}, messages=MESSAGES),
        "required": ["model", "messages"],
    },
    "OllamaChatRequest": _open(
        {"model": "MODEL", "messages": HELLO}, messages=MESSAGES, stream=STREAM
    ),
    "OllamaRequest": _open({"model": "MODEL", "prompt": "Hello"}, stream=STREAM),
    "Completion": {"type": "object", "description": "The engine's answer, unchanged"},
    **FILE_SCHEMAS,
}
