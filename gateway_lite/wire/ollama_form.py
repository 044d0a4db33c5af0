"""The gateway's errors in Ollama's form, for the paths of Ollama's API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError

PATHS = "/api/"
"""Beginning of the paths of Ollama's API."""


def is_ollama(path: str) -> bool:
    """Return whether a path belongs to Ollama's API."""
    return path.startswith(PATHS)


def told(message: str) -> bytes:
    """Return an error in Ollama's form."""
    return msgspec.json.encode({"error": message})


def body(error: ApiError, path: str) -> bytes:
    """Return the JSON of an error, in the form of the path's API.

    Args:
        error: the error.
        path: path of the client's request.
    """
    return told(error.message) if is_ollama(path) else error.body()


def line(error: ApiError) -> bytes:
    """Return an error as the last line of a stream."""
    return told(error.message) + b"\n"
