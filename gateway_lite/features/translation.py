"""A request in the form of another API, translated into OpenAI's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_lite.wire.sse import Editor


@dataclass(frozen=True, slots=True)
class Translated:
    """A request in OpenAI's form.

    Args:
        path: path in OpenAI's API.
        body: the request's JSON.
        editor: turns the engine's answer of status 200 into the client's form.
        content_type: content type of the answer.
        failed: turns status and body of an engine's error into the body that the client gets.
        answer: an immediate answer without an engine, or None.
    """

    path: str
    body: bytes
    editor: Editor
    content_type: bytes
    failed: Callable[[int, bytes], bytes]
    answer: bytes | None = None


class FailedAnswer:
    """The translation of an engine's error.

    Args:
        translated: the translation of the request.
        status: HTTP status of the error.
    """

    def __init__(self, translated: Translated, status: int) -> None:
        self._failed = translated.failed
        self._status = status
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Keep a part of the error until the error is complete."""
        self._parts.append(data)
        return b""

    def finish(self) -> bytes:
        """Return the error in the client's form."""
        return self._failed(self._status, b"".join(self._parts))
