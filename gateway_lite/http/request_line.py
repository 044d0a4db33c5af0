"""The first bytes of a request: the path of its URL, and offers of other protocols."""

from __future__ import annotations

import re

import httptools

UPGRADE_BYTES = 4096
"""Bytes at the start of a request that are searched for an offer of another protocol."""
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def without_upgrade(data: bytes) -> bytes:
    """Return a request without its offer of another protocol.

    Java's client offers HTTP/2 with every request; the parser would then not read the body.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    # The header is renamed, not removed: one substitution, and the line's value stays harmless.
    return UPGRADE.sub(b"\r\nx-not-taken:", head) + end + body


def path_of(url: bytes) -> bytes:
    """Return the path of a URL, absolute or not, without its query."""
    if url.startswith(b"/"):
        return url.partition(b"?")[0]
    try:
        return httptools.parse_url(url).path or b""
    except httptools.HttpParserInvalidURLError:
        return b""
