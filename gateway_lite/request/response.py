"""A replica's answer as received: a stream is passed on at once, another answer at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from gateway_lite.wire import error_forms, response_head, token_usage

if TYPE_CHECKING:
    from gateway_lite.errors import ApiError
    from gateway_lite.telemetry.request_record import RequestRecord
    from gateway_lite.upstream.connection import UpstreamConnection
    from gateway_lite.wire.sse import Editor, ResponseEdits

clock = time.perf_counter
DONE = token_usage.DONE + b"\n\n"


class ByteStream(Protocol):
    """The connection that an answer is written to."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def defaults(self) -> bytes:
        """Return the header lines of every answer."""


class ResponseWriter(msgspec.Struct, eq=False):
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

    connection: ByteStream
    record: RequestRecord
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
        """End a stream of events or lines with an error, or cut off another answer."""
        path = self.record.path
        if self.events:
            self.more(error_forms.frames(error, path))
            self.end()
        elif error_forms.is_ollama(path):
            self.more(error_forms.line(error))
            self.end()
        else:
            self.keep_alive = False


class UpstreamResponse(msgspec.Struct, eq=False):
    """One answer whose head has arrived.

    An answer that is no stream is kept until complete, so that a broken answer can be requested
    again.

    Attributes:
        writer: writer of the answer.
        record: the request's record.
        status: HTTP status.
        streams: True if pieces are passed on as they arrive.
        events: True if the client gets an event stream.
        lines: header lines for the client.
        editors: editors of the body, in order.
        limit: largest unary answer in bytes.
    """

    writer: ResponseWriter
    record: RequestRecord
    status: int
    streams: bool
    events: bool
    lines: bytes
    editors: tuple[Editor, ...]
    limit: int
    _parts: list[bytes] = []
    _size: int = 0

    def take(self, data: bytes) -> bool:
        """Take bytes of the body; return False if a unary answer is too large."""
        if not self.streams:
            self._size += len(data)
            self._parts.append(data)
            return self._size <= self.limit
        record = self.record
        record.reads += 1
        record.tail.add(data)
        if self.editors:
            data = self._edit(data)
        if not data:
            return True
        if self.writer.begun:
            self.writer.more(data)
        else:
            self._begin(data)
        return True

    def _edit(self, data: bytes) -> bytes:
        for editor in self.editors:
            data = editor.feed(data)
        return data

    def _rest(self) -> bytes:
        """Return the bytes that the editors held back."""
        data = b""
        for editor in self.editors:
            # Each editor gets the rest of the editors before it, and only then ends.
            data = (editor.feed(data) if data else b"") + editor.finish()
        return data

    def _begin(self, data: bytes) -> None:
        self.writer.begin(self.status, self.lines, data, events=self.events)

    def end(self) -> None:
        """Send the rest of the answer."""
        if self.streams:
            self._end_stream()
            return
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.record.whole(data)
        if self.editors:
            data = self._edit(data) + self._rest()
        self.writer.whole(self.status, self.lines, data)

    def _end_stream(self) -> None:
        rest = self._rest() if self.editors else b""
        if not self.writer.begun:
            self._begin(rest)
        elif rest:
            self.writer.more(rest)
        self.writer.end()
        self.record.complete = True


def response_of(
    link: UpstreamConnection,
    writer: ResponseWriter,
    record: RequestRecord,
    edits: ResponseEdits | None,
    *,
    lines: bytes,
    limit: int,
) -> UpstreamResponse:
    """Return the answer for a head that has arrived.

    Args:
        link: the upstream connection.
        writer: writer of the answer.
        record: the request's record.
        edits: edits of the answer, or None.
        lines: the gateway's own header lines.
        limit: largest unary answer in bytes.
    """
    headers, status = link.headers, link.status
    kind = headers.get(b"content-type", response_head.JSON)
    events = kind.startswith(response_head.EVENTS)
    editors: tuple[Editor, ...] = ()
    if edits is not None:
        editors = edits.editors(status, events=events)
        kind = edits.content_type(status) or kind
    return UpstreamResponse(
        writer,
        record,
        status,
        streams=events or not kind.startswith(response_head.JSON),
        events=events and kind.startswith(response_head.EVENTS),
        lines=response_head.passed_back(headers, kind) + lines,
        editors=editors,
        limit=limit,
    )
