"""Requests that are forms with files, as those of the audio API: parsed, and written anew.

The form that goes on is made of what was read, each part with a head of our own. Boundaries, heads
and repeated fields that another parser could take otherwise therefore do not reach an engine.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway_lite import errors
from gateway_lite.wire.request_body import BYTES_PER_TOKEN, RequestFields
from gateway_lite.wire.request_fields import LARGEST, check_spelling

FIELD_BYTES = 64 * 1024
"""Bytes of all fields other than files, and of the heads of parts."""
PARTS = 48
"""Parts of a form: up to 16 files, and options."""
FILE_BYTES_PER_TOKEN = 256
"""Bytes of a file that count as a token: 125 a second of speech in WAV, 30 in MP3 at 64 kbit/s."""
KIND = b"multipart/form-data"
ONCE = frozenset({"model", "stream", "n", "prompt", "response_format"})
"""Fields that may occur only once, as readers choose differently among several."""
DIGITS = 10
"""Digits of the largest number of answers."""
TRUTH = {"true": True, "1": True, "false": False, "0": False, "": False}


class _Part(NamedTuple):
    name: str
    filename: str | None
    kind: bytes
    data: bytes


class FormBody(msgspec.Struct, frozen=True):
    """A parsed form.

    Attributes:
        parts: the parts in order.
        boundary: the separator of the form that goes on.
    """

    parts: tuple[_Part, ...]
    boundary: bytes

    @property
    def content_type(self) -> bytes:
        """The content type of the form that goes on."""
        return KIND + b"; boundary=" + self.boundary

    @property
    def tokens(self) -> int:
        """The estimated tokens of the form: its texts and its files."""
        texts = sum(len(part.data) for part in self.parts if part.filename is None)
        files = sum(len(part.data) for part in self.parts if part.filename is not None)
        return texts // BYTES_PER_TOKEN + -(-files // FILE_BYTES_PER_TOKEN)

    @property
    def answers(self) -> int:
        """The number of answers that the form asks for.

        Raises:
            ApiError: the field ``n`` is no whole number from 1.
        """
        text = self._text("n") or "1"
        decimal = text.isascii() and text.isdecimal() and len(text) <= DIGITS
        if decimal and 1 <= int(text) <= LARGEST:
            return int(text)
        raise errors.bad_request(f"'n' must be a whole number from 1 to {LARGEST}", param="n")

    def fields(self) -> RequestFields:
        """Return the fields that routing needs.

        Raises:
            ApiError: the form names no model, or has another value than true or false as stream.
        """
        model, stream = self._text("model"), (self._text("stream") or "").lower()
        if not model:
            raise errors.bad_request("the request names no model", param="model")
        if stream not in TRUTH:
            raise errors.bad_request("'stream' must be true or false", param="stream")
        return RequestFields(model=model, stream=TRUTH[stream])

    def _text(self, name: str) -> str | None:
        found = [part.data for part in self.parts if part.name == name and part.filename is None]
        return found[0].decode(errors="replace").strip() if found else None

    def body(self, model: str) -> bytes:
        """Return the form with a model's name.

        Args:
            model: the model's name at the engine.
        """
        pieces: list[bytes] = []
        for part in self.parts:
            named = part.name == "model" and part.filename is None
            pieces += [b"--", self.boundary, b"\r\n", _head(part), b"\r\n"]
            pieces += [model.encode() if named else part.data, b"\r\n"]
        return b"".join([*pieces, b"--", self.boundary, b"--\r\n"])


def _head(part: _Part) -> bytes:
    """Return the head of a part."""
    line = f'content-disposition: form-data; name="{_quoted(part.name)}"'
    if part.filename is None:
        return line.encode() + b"\r\n"
    kind = part.kind or b"application/octet-stream"
    return (
        f'{line}; filename="{_quoted(part.filename)}"\r\n'.encode() + b"content-type: %b\r\n" % kind
    )


def _quoted(text: str) -> str:
    """Return a name as browsers write it in quotes."""
    plain = "".join(c for c in text if c.isprintable())
    return plain.replace("\\", "%5C").replace('"', "%22")


def read(content_type: bytes, body: bytes) -> FormBody:
    """Return a parsed form.

    Args:
        content_type: the request's content type, with the boundary.
        body: the complete body.

    Raises:
        ApiError: the body is no form, has too many parts, or has a field that readers may take
            differently.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != KIND or not boundary:
        raise errors.bad_request("this path takes a form: multipart/form-data with a boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
    except (FormParserError, ValueError) as error:
        raise errors.bad_request("the body is no form: multipart/form-data is needed") from error
    if not collector.complete:
        raise errors.bad_request("the form is not complete")
    names = [part.name for part in collector.parts]
    for name in ONCE.intersection(names):
        if names.count(name) > 1:
            raise errors.bad_request(f"the form has {name!r} twice", param=name)
    check_spelling(names)
    # A boundary that occurs in a file would end the part there: 128 random bits do not.
    return FormBody(tuple(collector.parts), secrets.token_hex(16).encode())


class _Collector:
    """The parts of a form."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._small = 0
        self._field, self._value = bytearray(), bytearray()
        self._heads: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._name, self._filename = "", ""
        self._is_file = False

    def callbacks(self) -> Any:
        """Return the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda d, s, e: self._head_bytes(self._field, d[s:e]),
            "on_header_value": lambda d, s, e: self._head_bytes(self._value, d[s:e]),
            "on_header_end": self._head_end,
            "on_headers_finished": self._heads_end,
            "on_part_data": lambda d, s, e: self._data(d[s:e]),
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        if len(self.parts) >= PARTS:
            raise errors.bad_request(f"the form has more than {PARTS} parts")
        self._heads, self._pieces = {}, []

    def _head_bytes(self, buffer: bytearray, data: bytes) -> None:
        self._spend(len(data))
        buffer.extend(data)

    def _head_end(self) -> None:
        self._heads[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _heads_end(self) -> None:
        _, options = parse_options_header(self._heads.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in options
        self._filename = options.get(b"filename", b"").decode(errors="replace")
        if not self._name:
            raise errors.bad_request("a part of the form has no name")
        kind = self._heads.get(b"content-type", b"").decode("latin-1")
        # A head that goes on changed, or with a line end, may mean another field to the engine.
        if _quoted(self._name) != self._name or not kind.isprintable():
            raise errors.bad_request("a part of the form has a head with odd characters")

    def _data(self, data: bytes) -> None:
        if not self._is_file:
            self._spend(len(data))
        self._pieces.append(data)

    def _end(self) -> None:
        kind = self._heads.get(b"content-type", b"")
        data = b"".join(self._pieces)
        self._pieces = []
        filename = self._filename if self._is_file else None
        self.parts.append(_Part(self._name, filename, kind, data))

    def _all(self) -> None:
        self.complete = True

    def _spend(self, size: int) -> None:
        self._small += size
        if self._small > FIELD_BYTES:
            raise errors.bad_request(f"the form has more than {FIELD_BYTES} bytes beside its files")
