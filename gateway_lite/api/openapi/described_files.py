"""The OpenAPI operations of files and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway_lite import errors
from gateway_lite.api.batches import common
from gateway_lite.api.openapi.operations import TEXT, answer_of, content_of, page_of, ref

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError

    Json = dict[str, Any]

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
