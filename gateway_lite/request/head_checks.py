"""The checks of a request by its head, before a byte of its body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc.keys.limits import KeyLimits

BYTES_PER_TOKEN = 12 * 1024
"""Most bytes of a body for one token of its prompt: text takes about 4 in JSON, escaped text 12, a
picture without compression 4 KiB, and sound of 48 kHz in stereo 10 KiB.
"""
OTHER_BYTES = 64 * 1024
"""Bytes of a body beside its prompt, such as the descriptions of tools."""


def longest_body(most: int, limits: KeyLimits) -> int:
    """Return the largest body in bytes that a key's longest prompt can have.

    Args:
        most: the largest body of all keys.
        limits: limits of the key.
    """
    tokens = limits.max_prompt_tokens
    return most if tokens is None else min(most, tokens * BYTES_PER_TOKEN + OTHER_BYTES)
