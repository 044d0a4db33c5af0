"""What one turn of the event loop has to send goes out at its end, in one go.

Each write wakes a process at the other end, which costs more than the write itself where that
process sleeps; of many that go out together, most find it awake. Where turns have little to send,
it goes out at once, as the end of the turn costs too.
"""

from __future__ import annotations

import asyncio

FEW = 2
"""Writes in a turn that are not worth the wait for its end."""
ALONE = 32
"""Writes that go out at once after such a turn, before the next turn is looked at."""


class Outbox:
    """Keeps bytes until the turn ends.

    Whoever closes a transport, or writes to it otherwise, flushes first.
    """

    __slots__ = ("_alone", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._alone = 0
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def put(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Send bytes when the turn ends, or now; behind what was put before."""
        waiting = self._waiting
        if not waiting:
            if self._alone:
                self._alone -= 1
                transport.write(data)
                return
            self._loop.call_soon(self.flush)
        waiting.append((transport, data))

    def flush(self) -> None:
        """Send all of it now; what was for a closed connection is dropped."""
        waiting, self._waiting = self._waiting, []
        self._alone = ALONE if len(waiting) <= FEW else 0
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
