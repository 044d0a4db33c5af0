"""A client's request, collected within a size bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


class Request(msgspec.Struct, eq=False, gc=False):
    """One hot request.

    Attributes:
        method: GET or POST.
        path: path of the URL, without the query.
        headers: headers by lower-case name.
        limit: largest body in bytes.
        body: the complete body, once ``whole``.
        size: bytes of the body so far.
        whole: True once the body is complete.
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
        """Whether the body exceeds the limit, by size so far or announced length."""
        told = self.headers.get(b"content-length")
        return self.size > self.limit or (told is not None and int(told) > self.limit)

    @property
    def waits(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends the body."""
        return b"expect" in self.headers and not self.whole

    def add(self, data: bytes) -> bool:
        """Add bytes to the body; return False beyond the limit."""
        self.size += len(data)
        if self.size <= self.limit:
            self._parts.append(data)
            return True
        self._parts.clear()
        return False

    def complete(self) -> None:
        """Complete the body."""
        self.whole = True
        parts = self._parts
        # Most bodies arrive in one read and need no copy.
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []

    def drop(self) -> None:
        """Drop the body of a refused or answered request."""
        self.body = b""
        self._parts.clear()
