"""What a client may put into the head of a request, brought into one form."""

from __future__ import annotations

import re

import httptools

UPGRADE_BYTES = 4096
"""Bytes of a request in which an offer of another protocol is looked for."""
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def without_upgrade(data: bytes) -> bytes:
    """Return a request without its offer of another protocol.

    Java's client offers HTTP/2 with every request; the parser would then not read the body.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"\r\nx-not-taken:", head) + end + body


def path_of(url: bytes) -> bytes:
    """Return the path of a URL, which may be absolute and have a query."""
    if url.startswith(b"/"):
        return url.partition(b"?")[0]
    try:
        return httptools.parse_url(url).path or b""
    except httptools.HttpParserInvalidURLError:
        return b""
