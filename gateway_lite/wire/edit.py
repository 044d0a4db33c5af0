"""The interface of editors, which read or change an answer on its way to the client."""

from __future__ import annotations

from typing import Protocol


class Editor(Protocol):
    """An editor of one answer's body; bytes arrive cut anywhere."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, and return the bytes to pass on; the held-back part must be bounded."""
        ...

    def finish(self) -> bytes:
        """Return the rest at the end of the answer."""
        ...
