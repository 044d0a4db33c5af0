"""Write batching: the bytes of one event-loop turn are sent together at the end of the turn.

Each write wakes the process at the other end, and waking a sleeping process costs more than the
write. Of many writes in a row, most find the receiver awake. While turns have few writes, bytes are
sent at once, as the callback at the end of a turn has a cost too.
"""

from __future__ import annotations

import asyncio

FEW = 2
"""Number of writes in a turn up to which batching is not worth its callback."""
ALONE = 32
"""Number of unbatched writes after a turn with few writes, before a turn is measured again."""


class WriteBatcher:
    """The write batcher: collects bytes until the end of the event-loop turn.

    Before a transport is closed or written to directly, the caller flushes.
    """

    __slots__ = ("_alone", "_loop", "_waiting")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._alone = 0
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def put(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Send bytes at the end of the turn or at once, in the order of the calls."""
        waiting = self._waiting
        # Bytes may bypass the batch only while the batch is empty; otherwise they would overtake.
        if not waiting:
            if self._alone:
                self._alone -= 1
                transport.write(data)
                return
            self._loop.call_soon(self.flush)
        waiting.append((transport, data))

    def flush(self) -> None:
        """Send all collected bytes now; bytes for a closed connection are dropped."""
        waiting, self._waiting = self._waiting, []
        self._alone = ALONE if len(waiting) <= FEW else 0
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
