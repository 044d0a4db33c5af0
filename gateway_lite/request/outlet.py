"""The writer of one answer: head, pieces and end, in HTTP/1.1 or HTTP/1.0."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway_lite.wire import response_head, token_usage

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError
    from gateway_lite.telemetry.request_record import Record

clock = time.perf_counter
DONE = token_usage.DONE + b"\n\n"


class Connection(Protocol):
    """The connection that an answer is written to."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def defaults(self) -> bytes:
        """Return the header lines of every answer."""


class Outlet(msgspec.Struct, eq=False):
    """The writer of one answer.

    Attributes:
        connection: the client's connection.
        record: the request's record, for status and first byte.
        keep_alive: the connection may serve a further request afterwards.
        plain: the client speaks HTTP/1.0, without chunks.
        events: True for an event stream.
        begun: True once bytes were sent.
        said: True once the answer's terminator or the complete answer was sent.
    """

    connection: Connection
    record: Record
    keep_alive: bool
    plain: bool
    events: bool = False
    begun: bool = False
    said: bool = False

    def go_on(self) -> None:
        """Send "100 Continue" to a client that waits for permission to send the body."""
        if not self.plain:
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a complete answer in one write.

        Args:
            status: HTTP status.
            lines: header lines.
            body: the complete body.
        """
        close = b"" if self.keep_alive else response_head.CLOSE
        self.begun = self.said = True
        self.connection.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                response_head.status_line(status),
                self.connection.defaults(),
                lines,
                close,
                len(body),
                body,
            )
        )
        self.record.first_at = clock()
        self.record.status = status

    def begin(self, status: int, lines: bytes, data: bytes, *, events: bool) -> None:
        """Send the head together with the first bytes of the body.

        Args:
            status: HTTP status.
            lines: header lines.
            data: the first bytes.
            events: True for an event stream.
        """
        self.events = events
        if self.plain:
            self._write_head(status, lines, b"\r\n", data)
            return
        parts = [response_head.UNBUFFERED] if events else []
        parts += [b"transfer-encoding: chunked\r\n\r\n"]
        if data:
            parts.append(response_head.chunk(data))
        if data.endswith(DONE):
            self.said = True
            parts.append(response_head.LAST)
        self._write_head(status, lines, *parts)

    def _write_head(self, status: int, lines: bytes, *rest: bytes) -> None:
        self.begun = True
        close = b"" if self.keep_alive else response_head.CLOSE
        # One write for head and first bytes: two small segments would wait for each other.
        head = (response_head.status_line(status), self.connection.defaults(), lines, close)
        self.connection.write(b"".join((*head, *rest)))
        self.record.first_at = clock()
        self.record.status = status

    def more(self, data: bytes) -> None:
        """Send further bytes of the body."""
        if self.plain:
            self.connection.write(data)
        elif data.endswith(DONE):
            self.said = True
            # The last event and the end of the chunks in one segment: the client wakes once, not
            # twice.
            self.connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        elif not self.said:
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Send the end of the answer."""
        if not self.plain and not self.said:
            self.connection.write(response_head.LAST)
        self.said = True

    def spoil(self, error: ApiError) -> None:
        """End an event stream with an error, or cut off another answer."""
        if not self.events:
            self.keep_alive = False
            return
        self.more(error.frames())
