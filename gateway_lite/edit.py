"""What may look into an answer, or change it, on its way to the client."""

from __future__ import annotations

from typing import Protocol


class Editor(Protocol):
    """Edits the body of one answer; bytes come as they are read, cut anywhere."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, and return those that may go on; what is held back must be bounded."""
        ...

    def finish(self) -> bytes:
        """Return the rest, when the answer is complete."""
        ...
