"""The gateway's errors in the form of the path's API: OpenAI's, Anthropic's or Ollama's.

Source of Anthropic's: https://docs.claude.com/en/api/errors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError

MESSAGES = "/v1/messages"
BELOW = MESSAGES + "/"
OLLAMA = "/api/"
"""Beginning of the paths of Ollama's API."""
KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's error types by status; others are a client's or a server's fault in general."""
SERVER_FAULT = 500
TOO_LONG = "context_length_exceeded"


def is_anthropic(path: str) -> bool:
    """Return whether a path belongs to Anthropic's API."""
    return path == MESSAGES or path.startswith(BELOW)


def is_ollama(path: str) -> bool:
    """Return whether a path belongs to Ollama's API."""
    return path.startswith(OLLAMA)


def ollama(message: str) -> bytes:
    """Return an error in Ollama's form."""
    return msgspec.json.encode({"error": message})


def line(error: ApiError) -> bytes:
    """Return an error as the last line of a stream of Ollama's API."""
    return ollama(error.message) + b"\n"


def anthropic(status: int, message: str) -> bytes:
    """Return an error in Anthropic's form."""
    general = "api_error" if status >= SERVER_FAULT else "invalid_request_error"
    error = {"type": KINDS.get(status, general), "message": message}
    return msgspec.json.encode({"type": "error", "error": error})


def too_long(message: str) -> str:
    """Return a message on a long prompt in the words by which Anthropic's clients know the case."""
    return f"prompt is too long: {message}"


def body(error: ApiError, path: str) -> bytes:
    """Return the JSON of an error, in the form of the path's API.

    Args:
        error: the error.
        path: path of the client's request.
    """
    if is_ollama(path):
        return ollama(error.message)
    if not is_anthropic(path):
        return error.body()
    message = too_long(error.message) if error.code == TOO_LONG else error.message
    return anthropic(error.status, message)


def frames(error: ApiError, path: str) -> bytes:
    """Return an error as the end of an event stream, in the form of the path's API.

    Args:
        error: the error.
        path: path of the client's request.
    """
    if not is_anthropic(path):
        return error.frames()
    # The empty line ends an event that broke off in the middle.
    return b"\n\nevent: error\ndata: " + body(error, path) + b"\n\n"


def request_id(path: str, name: bytes) -> bytes:
    """Return the header line with the request's id under Anthropic's name; empty for other paths.

    Args:
        path: path of the client's request.
        name: the request's id.
    """
    return b"request-id: %b\r\n" % name if is_anthropic(path) else b""
