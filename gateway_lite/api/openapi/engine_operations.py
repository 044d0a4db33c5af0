"""The OpenAPI operations of engines beside chats, completions and responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway_lite import errors
from gateway_lite.api.openapi.operations import (
    ALWAYS,
    MODEL,
    TEXT,
    answer_of,
    errors_of,
    form_of,
    ref,
    work_of,
)
from gateway_lite.features.stored_responses import no_response
from hpc import api_paths

if TYPE_CHECKING:
    Json = dict[str, Any]

RESPONSE_ID: Json = {
    "name": "response_id",
    "in": "path",
    "required": True,
    "schema": {**TEXT, "pattern": "^resp_[A-Za-z0-9_-]{1,128}$"},
}


def _numbers(path: str) -> Json:
    names = {
        api_paths.VECTORS: ("Embed texts", "EmbeddingRequest"),
        api_paths.POOLING: ("Pool the states of a model", "EmbeddingRequest"),
        api_paths.CLASSIFY: ("Classify texts", "EmbeddingRequest"),
        api_paths.MODERATIONS: ("Judge texts", "EmbeddingRequest"),
        **dict.fromkeys(api_paths.RANKINGS, ("Rank documents by a query", "RerankRequest")),
        **dict.fromkeys(api_paths.SCORES, ("Score pairs of texts", "ScoreRequest")),
    }
    return work_of(*names[path], "Completion")


def _response(summary: str) -> Json:
    """Return an operation on a stored response."""
    known = (*ALWAYS, *MODEL, no_response("resp_1"), errors.upstream_error("REASON"))
    answer = answer_of("The engine's answer, unchanged", json=ref("Completion"))
    return {
        "summary": summary,
        "tags": ["OpenAI"],
        "parameters": [RESPONSE_ID],
        "responses": {"200": answer, **errors_of(known, engine=True)},
    }


SPEECH = work_of("Speak a text", "SpeechRequest", "Completion")
SPEECH["responses"]["200"]["content"] = {"audio/*": {"schema": {}}}
OPERATIONS: dict[tuple[str, str], Json] = {
    **{("POST", path): _numbers(path) for path in api_paths.COMPUTED},
    ("POST", api_paths.TOKENIZE): work_of("Split a text into tokens", "TextRequest", "Completion"),
    ("POST", api_paths.DETOKENIZE): work_of("Join tokens", "TokensRequest", "Completion"),
    ("POST", api_paths.IMAGES): work_of("Make images", "ImageRequest", "Completion"),
    ("POST", api_paths.SPEECH): SPEECH,
    ("POST", api_paths.TRANSCRIPTIONS): form_of("Write speech down", "AudioForm", streams=True),
    ("POST", api_paths.TRANSLATIONS): form_of("Translate speech", "AudioForm", streams=True),
    ("POST", api_paths.EDITS): form_of("Edit an image", "ImageForm"),
    ("POST", api_paths.VARIATIONS): form_of("Vary an image", "ImageForm"),
    ("GET", api_paths.RESPONSES + "/{response_id}"): _response("Read a stored response"),
    ("DELETE", api_paths.RESPONSES + "/{response_id}"): _response("Remove a stored response"),
    ("POST", api_paths.RESPONSES + "/{response_id}/cancel"): _response("Cancel a response"),
}
