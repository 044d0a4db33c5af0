"""The open connections of clients, and the choice of the one that makes room for another.

A process with too many open files can neither accept nor read a key file, so connections are
bounded below that number: half of it, as each request holds a second file at its replica.
Connections that have shown no valid key are bounded again, and the oldest of them goes first. Among
connections with a key, the key with the most makes room. Addresses do not count: all clients of a
tunnel have the same.
"""

from __future__ import annotations

from typing import Protocol

SPARE_FILES = 128
"""Open files that no connection may take: listeners, logs, keys.yaml, records, uploads."""
CONNECTIONS = 8192
"""Most connections of one process; an idle one takes up to 16 KiB."""
STRANGERS = 512
"""Most connections without a valid key: a client shows its key in its first milliseconds."""


class ClientTransport(Protocol):
    """An open connection, as seen by the table."""

    listed: str

    def shown_key(self) -> str:
        """Return the id of the valid key that the connection has shown; empty without any."""

    def idle(self) -> bool:
        """Return whether no request is in progress."""

    def cut(self) -> None:
        """Close at once."""


class ConnectionTable:
    """The open connections of one server, the oldest first.

    Args:
        files: number of files that the process may have open.
    """

    def __init__(self, files: int) -> None:
        self.most = max(16, min(CONNECTIONS, (files - SPARE_FILES) // 2))
        self.most_strangers = min(STRANGERS, self.most // 2)
        self.cuts = 0
        self._strangers: dict[ClientTransport, None] = {}
        self._known: dict[str, dict[ClientTransport, None]] = {}
        self._count = 0

    def add(self, connection: ClientTransport) -> None:
        """Add a new connection, and close another one if there are too many."""
        self._strangers[connection] = None
        self._count += 1
        if len(self._strangers) > self.most_strangers or self._count > self.most:
            self._make_room()

    def remove(self, connection: ClientTransport) -> None:
        """Remove a closed connection; a second removal does nothing."""
        listed = self._known.get(connection.listed) if connection.listed else self._strangers
        if listed is None or connection not in listed:
            return
        del listed[connection]
        self._count -= 1
        if connection.listed and not listed:
            del self._known[connection.listed]

    def _make_room(self) -> None:
        victim = self._oldest_stranger()
        if len(self._strangers) <= self.most_strangers and self._count <= self.most:
            return
        if victim is None or (len(self._strangers) == 1 and self._known):
            # The only stranger is the new connection itself, so a connection with a key goes.
            victim = self._of_heaviest_key()
        self.remove(victim)
        self.cuts += 1
        victim.cut()

    def _oldest_stranger(self) -> ClientTransport | None:
        """Return the oldest connection without a key, and list those before it under their keys."""
        # Keys are looked at here alone, once per connection: nothing is recorded per request.
        while self._strangers:
            oldest = next(iter(self._strangers))
            key = oldest.shown_key()
            if not key:
                return oldest
            del self._strangers[oldest]
            oldest.listed = key
            self._known.setdefault(key, {})[oldest] = None
        return None

    def _of_heaviest_key(self) -> ClientTransport:
        """Return the oldest idle connection of the key with the most; without any, its newest."""
        heaviest = max(self._known.values(), key=len)
        newest = next(reversed(heaviest))
        return next((one for one in heaviest if one.idle()), newest)
