"""Uploads in multipart/form-data, parsed as bytes arrive and written to disk piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway_lite import errors
from gateway_lite.wire import content_coding
from gateway_lite.wire.asgi import ClientGone

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from starlette.requests import Request

FIELD_BYTES = 64 * 1024
"""Bytes of all fields other than the file, and of the heads of parts."""
PARTS = 16
"""Parts of a form: a file, its purpose, and what clients add."""
REST_S = 5.0
"""Seconds for a client to send the rest of a refused upload, so that it reads the refusal."""


@dataclass(slots=True)
class Form:
    """The parts of a form received so far.

    Attributes:
        fields: texts by name; of two fields with one name the last.
        filename: name of the file; None before a file.
        size: bytes of the file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


class Parser:
    """The parser of a form.

    Args:
        boundary: separator of its parts.
        limit: largest size of the file in bytes.
    """

    def __init__(self, boundary: bytes, limit: int) -> None:
        self.form = Form()
        self.complete = False
        self._limit = limit
        self._small = self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._in_file = False
        self._fresh: list[bytes] = []
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda d, s, e: self._head(0, d[s:e]),
                "on_header_value": lambda d, s, e: self._head(1, d[s:e]),
                "on_header_end": self._head_end,
                "on_headers_finished": self._heads_end,
                "on_part_data": lambda d, s, e: self._data(d[s:e]),
                "on_part_end": self._end,
                "on_end": self._all,
            },
        )

    def feed(self, data: bytes) -> bytes:
        """Parse bytes, and return the bytes of the file among them.

        Raises:
            ApiError: the body is not a form, or too large.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise errors.bad_request(
                "the body is no form: multipart/form-data is needed"
            ) from error
        fresh, self._fresh = b"".join(self._fresh), []
        return fresh

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise errors.bad_request(f"the form has more than {PARTS} parts")
        self._disposition, self._name, self._in_file = b"", "", False
        self._text.clear()

    def _head(self, which: int, data: bytes) -> None:
        self._spend(len(data))
        self._header[which].extend(data)

    def _head_end(self) -> None:
        name, value = (bytes(one) for one in self._header)
        for one in self._header:
            one.clear()
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _heads_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if b"filename" in options and self._name == "file":
            if self.form.filename is not None:
                raise errors.bad_request("the form has two files", param="file")
            self._in_file = True
            self.form.filename = _plain(options[b"filename"].decode(errors="replace"))

    def _data(self, data: bytes) -> None:
        if self._in_file:
            self.form.size += len(data)
            if self.form.size > self._limit:
                raise errors.too_large(self._limit)
            self._fresh.append(data)
        else:
            self._spend(len(data))
            self._text.extend(data)

    def _end(self) -> None:
        if not self._in_file:
            self.form.fields[self._name] = self._text.decode(errors="replace")

    def _all(self) -> None:
        self.complete = True

    def _spend(self, size: int) -> None:
        self._small += size
        if self._small > FIELD_BYTES:
            raise errors.bad_request(f"the form has more than {FIELD_BYTES} bytes beside its file")


def _plain(name: str) -> str:
    """Return a file name without folders and control characters."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[:255] or "file"


async def receive(request: Request, path: Path, limit: int) -> Form:
    """Write the file of a form to disk, and return the form.

    Args:
        request: the form.
        path: path of a new file.
        limit: largest size of the file in bytes.

    Raises:
        ApiError: the body is not a form with a file, or too large.
        ClientGone: the client left before the form was complete.
        OSError: the file cannot be written.
    """
    body = _Body(request)
    try:
        parser = Parser(_boundary(request, limit), limit)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as file:
            await _write(body, parser, file)
        if not parser.complete or parser.form.filename is None:
            raise errors.bad_request("the form has no file, or is not complete", param="file")
    except errors.ApiError:
        with contextlib.suppress(asyncio.TimeoutError):
            # Most clients read no answer before their whole request is sent.
            await asyncio.wait_for(body.drop(), REST_S)
        raise
    return parser.form


def announced(request: Request, limit: int) -> int:
    """Return the bytes that a form's file may have, by the length of the body; else the most."""
    told = request.headers.get("content-length", "")
    return min(int(told), limit) if told.isdecimal() else limit


def _boundary(request: Request, limit: int) -> bytes:
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in content_coding.IDENTITY:
        raise errors.unsupported_coding(coding, "identity")
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise errors.bad_request("the body is no form: multipart/form-data is needed")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit + FIELD_BYTES:
        raise errors.too_large(limit)
    return boundary


class _Body:
    """The body of a request."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.more = True

    async def read(self) -> bytes:
        """Return the next piece."""
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.more = message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data

    async def drop(self) -> None:
        """Read and drop the rest, so that the client gets to the answer."""
        while self.more:
            await self.read()


async def _write(body: _Body, parser: Parser, file: BinaryIO) -> None:
    while body.more:
        data = await body.read()
        fresh = parser.feed(data) if data else b""
        if fresh:
            await asyncio.to_thread(_all_of, file, fresh)
    # The client may delete its copy after the answer, so the file is on disk before.
    await asyncio.to_thread(os.fsync, file.fileno())


def _all_of(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
