"""The checks of a request by its head, before a byte of its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_lite.wire.form_body import FILE_BYTES_PER_TOKEN
from hpc.api_paths import FORMS

if TYPE_CHECKING:
    from hpc.keys.limits import KeyLimits

BYTES_PER_TOKEN = 12 * 1024
"""Most bytes of a body for one token of its prompt: text takes about 4 in JSON, escaped text 12, a
picture without compression 4 KiB, and sound of 48 kHz in stereo 10 KiB.
"""
OTHER_BYTES = 64 * 1024
"""Bytes of a body beside its prompt, such as the descriptions of tools."""


def longest_body(most: int, limits: KeyLimits, path: str) -> int:
    """Return the largest body in bytes that a key's longest prompt can have.

    Args:
        most: the largest body of all keys.
        limits: limits of the key.
        path: path of the request.
    """
    tokens = limits.max_prompt_tokens
    each = FILE_BYTES_PER_TOKEN if path in FORMS else BYTES_PER_TOKEN
    return most if tokens is None else min(most, tokens * each + OTHER_BYTES)
