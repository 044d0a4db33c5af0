"""Halves of surrogate pairs in JSON: escapes that are no character, which strict readers refuse.

Python's and JavaScript's writers make them of text that was cut within a character.
"""

from __future__ import annotations

import re

SHOWN = b"\\ufffd"
"""The replacement character, as JSON may write it."""
_HEX = rb"[0-9a-fA-F]{2}"
_LOW = rb"[c-fC-F]" + _HEX
_ESCAPES = re.compile(
    rb"(?<!\\)(\\+)u[dD](?:[89abAB]" + _HEX + rb"(\\u[dD]" + _LOW + rb")?|" + _LOW + rb")"
)
"""A whole pair, or a half; the backslashes in front make it an escape or not."""


def without_halves(document: bytes) -> bytes:
    """Return a JSON document with the replacement character for each half of a pair."""
    return _ESCAPES.sub(_whole, document) if b"\\u" in document else document


def _whole(found: re.Match[bytes]) -> bytes:
    whole, slashes, second = found[0], found[1], found[2]
    # Of an even number of backslashes each pair stands for one, and the "u" is a letter.
    if len(slashes) % 2 == 0:
        return whole if second is None else whole[: -len(second)] + SHOWN
    return slashes[:-1] + SHOWN if second is None else whole
