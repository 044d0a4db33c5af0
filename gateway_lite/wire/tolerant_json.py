"""Engines' answers as JSON, though a string holds half a surrogate pair or invalid UTF-8."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from hpc.surrogates import without_halves

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
        text = without_halves(data).decode(errors="replace")
    try:
        # Not strict: control characters may stand in strings, and NaN as a number.
        return json.loads(text, strict=False)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None
