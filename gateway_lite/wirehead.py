"""What a client may send: the bounds of a request, and its head brought into one form."""

from __future__ import annotations

import re

import httptools

HEAD_BYTES = 64 * 1024
HEADERS = 128
AHEAD = 16
"""Requests that may wait behind the one that is answered; beyond, reading stops."""
AHEAD_BYTES = 64 * 1024
"""Bytes of their bodies, for each."""
HEAD_S = 10.0
"""Seconds from the first byte of a request to the end of its head."""
BODY_QUIET_S = 30.0
"""Seconds that may pass between two bytes of a request's body."""
LINGER_S = 2.0
"""Seconds in which a client that still sends can read our refusal before the connection is cut."""
UPGRADE_BYTES = 4096
"""Bytes of a request in which an offer of another protocol is looked for."""
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


class TooManyHeadersError(Exception):
    """Ends the parsing of a request."""


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
