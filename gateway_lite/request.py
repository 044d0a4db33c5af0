"""A request as it comes from a client, collected within a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Request(msgspec.Struct, eq=False, gc=False):
    """One hot request.

    Attributes:
        method: GET or POST.
        path: without the query.
        headers: with lower-case names.
        limit: bytes that its body may have.
        body: all of it, once it is ``whole``.
        size: bytes of its body so far.
    """

    method: bytes
    path: str
    headers: Mapping[bytes, bytes]
    limit: int
    body: bytes = b""
    whole: bool = False
    size: int = 0
    _parts: list[bytes] = []

    @property
    def too_large(self) -> bool:
        """Whether its body has more bytes than are allowed, or says that it will."""
        told = self.headers.get(b"content-length")
        return self.size > self.limit or (told is not None and int(told) > self.limit)

    @property
    def waits(self) -> bool:
        """Whether the client sends the body only when it is told to go on."""
        return b"expect" in self.headers and not self.whole

    def add(self, data: bytes) -> bool:
        """Take bytes of the body; False where they are too many."""
        self.size += len(data)
        if self.size <= self.limit:
            self._parts.append(data)
            return True
        self._parts.clear()
        return False

    def complete(self) -> None:
        """Note that it is complete."""
        self.whole = True
        parts = self._parts
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []

    def drop(self) -> None:
        """Keep nothing of it: it was refused, or is answered."""
        self.body = b""
        self._parts.clear()
