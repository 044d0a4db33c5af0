"""Engines' answers as JSON, though a string holds half a surrogate pair or invalid UTF-8.

Python's and JavaScript's writers make such JSON of text that was cut within a character; strict
readers refuse the whole document for it.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

SHOWN_ESCAPE = b"\\ufffd"
"""The character in place of what is none, as JSON may write it."""
_HEX = rb"[0-9a-fA-F]{2}"
_LOW = rb"[c-fC-F]" + _HEX
_PAIR = re.compile(
    rb"(?<!\\)(\\+)u[dD](?:[89abAB]" + _HEX + rb"(\\u[dD]" + _LOW + rb")?|" + _LOW + rb")"
)
"""Escapes of surrogates: a whole pair, or a half; the backslashes in front make it one or not."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode(data: bytes) -> Any:
    """Return a decoded document; what is no character in its strings is U+FFFD.

    Raises:
        DecodeError: the bytes are no JSON.
        RecursionError: the document is nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = _PAIR.sub(_whole, data).decode(errors="replace")
    try:
        # Not strict: control characters may stand in strings, and NaN as a number.
        return json.loads(text, strict=False)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None


def _whole(found: re.Match[bytes]) -> bytes:
    whole, slashes, second = found[0], found[1], found[2]
    # Of an even number of backslashes each pair stands for one, and the "u" is a letter.
    if len(slashes) % 2 == 0:
        return whole if second is None else whole[: -len(second)] + SHOWN_ESCAPE
    return slashes[:-1] + SHOWN_ESCAPE if second is None else whole
