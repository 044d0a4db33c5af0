"""One answer on its way out: its head, its pieces, its end, on whatever HTTP the client speaks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway_lite import reply, usage

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError
    from gateway_lite.record import Record

clock = time.perf_counter
DONE = usage.DONE + b"\n\n"


class Connection(Protocol):
    """What an answer is written to."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def defaults(self) -> bytes:
        """Return the header lines of every answer."""


class Outlet(msgspec.Struct, eq=False):
    """Writes one answer.

    Attributes:
        connection: where to.
        record: notes when the first byte went out, and as what.
        keep_alive: the connection may serve another request after it.
        plain: the client knows no chunks (HTTP/1.0).
        events: it is an event stream.
        begun: bytes have gone out.
        said: its last word has gone out: the terminator, or all of it.
    """

    connection: Connection
    record: Record
    keep_alive: bool
    plain: bool
    events: bool = False
    begun: bool = False
    said: bool = False

    def go_on(self) -> None:
        """Tell a client that asked first to send its request's body."""
        if not self.plain:
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send an answer at once.

        Args:
            status: HTTP status.
            lines: its header lines.
            body: all of it.
        """
        close = b"" if self.keep_alive else reply.CLOSE
        self.begun = self.said = True
        self.connection.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                reply.status_line(status),
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
        """Send the head together with the first bytes: two segments would wait for each other.

        Args:
            status: HTTP status.
            lines: header lines.
            data: the first bytes.
            events: it is an event stream.
        """
        self.events = events
        if self.plain:
            self._write_head(status, lines, b"\r\n", data)
            return
        parts = [reply.UNBUFFERED] if events else []
        parts += [b"transfer-encoding: chunked\r\n\r\n"]
        if data:
            parts.append(reply.chunk(data))
        if data.endswith(DONE):
            self.said = True
            parts.append(reply.LAST)
        self._write_head(status, lines, *parts)

    def _write_head(self, status: int, lines: bytes, *rest: bytes) -> None:
        self.begun = True
        close = b"" if self.keep_alive else reply.CLOSE
        head = (reply.status_line(status), self.connection.defaults(), lines, close)
        self.connection.write(b"".join((*head, *rest)))
        self.record.first_at = clock()
        self.record.status = status

    def more(self, data: bytes) -> None:
        """Send further bytes; the last frame goes out with the terminator in one segment."""
        if self.plain:
            self.connection.write(data)
        elif data.endswith(DONE):
            self.said = True
            self.connection.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        elif not self.said:
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """Send the end."""
        if not self.plain and not self.said:
            self.connection.write(reply.LAST)
        self.said = True

    def spoil(self, error: ApiError) -> None:
        """End an event stream with an error; cut anything else short."""
        if not self.events:
            self.keep_alive = False
            return
        self.more(error.frames())
