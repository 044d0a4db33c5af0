"""JSON schemas of files and batches."""

from __future__ import annotations

from typing import Any

from hpc.openai_batches.records import ENDPOINTS

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
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


def _closed(**properties: Json) -> Json:
    shape = {"type": "object", "properties": properties, "required": [*properties]}
    return {**shape, "additionalProperties": False}


def _list(name: str) -> Json:
    some: Json = {"type": ["string", "null"]}
    return _closed(
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}},
        first_id=some,
        last_id=some,
        has_more={"type": "boolean"},
    )


ERROR = _closed(
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
SOME_FILE: Json = {"type": ["string", "null"], "description": "Id of a file of results"}
SCHEMAS: Json = {
    "File": _closed(
        id=TEXT,
        object={"const": "file"},
        bytes=COUNT,
        created_at=COUNT,
        filename=TEXT,
        purpose={"enum": ["batch", "batch_output"]},
        status={"const": "processed"},
        expires_at={"type": "null"},
    ),
    "FileList": _list("File"),
    "FileDeleted": _closed(id=TEXT, object={"const": "file"}, deleted={"const": True}),
    "FileUpload": {
        "type": "object",
        "properties": {
            "purpose": {"const": "batch"},
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
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
                _closed(object={"const": "list"}, data={"type": "array", "items": ERROR}),
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
