"""The head of a client's request: bounds and normal form."""

from __future__ import annotations

import re

import httptools

HEAD_BYTES = 64 * 1024
HEADERS = 128
AHEAD = 16
"""Pipelined requests that may wait behind the current request; beyond, reading stops."""
AHEAD_BYTES = 64 * 1024
"""Bytes of body for each waiting request."""
HEAD_S = 10.0
"""Seconds from the first byte of a request to the end of its head."""
BODY_QUIET_S = 30.0
"""Longest seconds between two bytes of a request's body."""
LINGER_S = 2.0
"""Seconds for a sending client to read a refusal before the connection is closed."""
UPGRADE_BYTES = 4096
"""Bytes at the start of a request that are searched for an offer of another protocol."""
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class TooManyHeadersError(Exception):
    """A request has more than HEADERS headers; ends its parsing."""


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
