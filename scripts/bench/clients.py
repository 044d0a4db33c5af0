"""One connection of a load: it asks, measures, and asks again."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, cast

import httptools

from scripts.bench.answers import FRAME_TIME

if TYPE_CHECKING:
    from scripts.bench.load import Run

now_ns = time.monotonic_ns
FRAME = re.compile(FRAME_TIME)
CARRIED = 300
"""Bytes of a read that an event may have begun in."""


class Client(asyncio.Protocol):
    """What both kinds have."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.sent_ns = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask at once."""
        self.transport = cast("asyncio.Transport", transport)
        self.begin()
        self.send()

    def begin(self) -> None:
        """Prepare for answers."""

    def send(self) -> None:
        """Ask once more, or end where the time is over."""
        if self.run.over:
            self.transport.close()
            return
        self.buffer = b""
        self.sent_ns = now_ns()
        self.transport.write(self.run.request)


class UnaryClient(Client):
    """Reads answers in one piece, with as little work as can be."""

    need: int | None = None
    good = False

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer."""
        self.buffer = self.buffer + data if self.buffer else data
        if self.need is None and not self._head():
            return
        whole = self.buffer.endswith(b"0\r\n\r\n") if self.need == -1 else self._complete()
        if whole:
            run, took = self.run, now_ns() - self.sent_ns
            if self.good:
                run.latency.append(took)
            else:
                run.refused += 1
            self.sent_ns, self.need = 0, None
            self.send()

    def _complete(self) -> bool:
        return self.need is not None and len(self.buffer) >= self.need

    def _head(self) -> bool:
        """Find how long the answer is; -1 where it is chunked."""
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self.buffer[:end].lower()
        self.good = self.buffer[9:12] == b"200"
        _, told, rest = head.partition(b"content-length:")
        if told:
            self.need = end + 4 + int(rest.split(b"\r\n", 1)[0])
        elif b"chunked" in head:
            self.need = -1
        else:
            self.transport.close()
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Count an answer that did not come."""
        del exc
        if self.sent_ns:
            self.run.errors += 1
        self.run.lost()


class StreamClient(Client):
    """Reads streams, however their bytes were cut, and the time in each event."""

    def begin(self) -> None:
        """Prepare for answers."""
        self.parser = httptools.HttpResponseParser(self)
        self.frames = 0
        self.said_done = False
        self.read_ns = 0

    def send(self) -> None:
        """Ask once more."""
        self.frames, self.said_done = 0, False
        super().send()

    def data_received(self, data: bytes) -> None:
        """Take a part of a stream."""
        self.read_ns = now_ns()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.run.errors += 1
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Give up on anything but a stream."""
        if self.parser.get_status_code() != 200:
            self.run.refused += 1
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Note the events in a part of the body."""
        run, at = self.run, self.read_ns
        buffer = self.buffer + body if self.buffer else body
        count = end = 0
        for match in FRAME.finditer(buffer):
            if not self.frames and not count:
                run.first.append(at - self.sent_ns)
            count += 1
            end = match.end()
            run.delay.append(at - int(match.group(1)))
        self.frames += count
        self.said_done = self.said_done or b"[DONE]" in buffer
        self.buffer = buffer[max(end, len(buffer) - CARRIED) :]

    def on_message_complete(self) -> None:
        """Note how the stream ended, and ask for another."""
        if self.sent_ns:
            self._ended()
            self.send()

    def _ended(self) -> None:
        self.sent_ns = 0
        if self.said_done:
            self.run.streams += 1
        elif not self.run.stopped:
            self.run.errors += 1
        self.run.lengths.append(self.frames)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a stream that was cut."""
        del exc
        if self.sent_ns and not self.run.stopped:
            self.run.closed += 1
            self._ended()
        self.sent_ns = 0
        self.run.lost()
