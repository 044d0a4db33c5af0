"""A replica's answer as received: a stream is passed on at once, another answer at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway_lite.wire import response_head

if TYPE_CHECKING:
    from gateway_lite.features.pipeline import Extra
    from gateway_lite.request.outlet import Outlet
    from gateway_lite.telemetry.request_record import Record
    from gateway_lite.upstream.connection import Link
    from gateway_lite.wire.edit import Editor


class Answer(msgspec.Struct, eq=False):
    """One answer whose head has arrived.

    An answer that is no stream is kept until complete, so that a broken answer can be requested
    again.

    Attributes:
        outlet: writer of the answer.
        record: the request's record.
        status: HTTP status.
        streams: True if pieces are passed on as they arrive.
        events: True if the client gets an event stream.
        lines: header lines for the client.
        editors: editors of the body, in order.
        limit: largest unary answer in bytes.
    """

    outlet: Outlet
    record: Record
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
        if self.outlet.begun:
            self.outlet.more(data)
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
        self.outlet.begin(self.status, self.lines, data, events=self.events)

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
        self.outlet.whole(self.status, self.lines, data)

    def _end_stream(self) -> None:
        rest = self._rest() if self.editors else b""
        if not self.outlet.begun:
            self._begin(rest)
        elif rest:
            self.outlet.more(rest)
        self.outlet.end()
        self.record.complete = True


def answer_of(
    link: Link, outlet: Outlet, record: Record, extra: Extra | None, *, lines: bytes, limit: int
) -> Answer:
    """Return the answer for a head that has arrived.

    Args:
        link: the upstream connection.
        outlet: writer of the answer.
        record: the request's record.
        extra: edits of the answer, or None.
        lines: the gateway's own header lines.
        limit: largest unary answer in bytes.
    """
    headers, status = link.headers, link.status
    kind = headers.get(b"content-type", response_head.JSON)
    events = kind.startswith(response_head.EVENTS)
    editors: tuple[Editor, ...] = ()
    if extra is not None:
        editors = extra.editors(status, events=events)
        kind = extra.content_type(status) or kind
    return Answer(
        outlet,
        record,
        status,
        streams=events or not kind.startswith(response_head.JSON),
        events=events and kind.startswith(response_head.EVENTS),
        lines=response_head.passed_back(headers, kind) + lines,
        editors=editors,
        limit=limit,
    )
