"""Addresses of images, audio and video in a request, which an engine would fetch for its client.

An engine on a compute node reaches what its clients do not: services of other users on loopback,
the site's intranet, a cloud's metadata (server-side request forgery). vLLM fetches from everywhere
by default, and llama-server cannot be told not to. The search works on bytes, so that a prompt
without media costs two scans instead of a JSON parser.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Collection

ANY = "*"
"""A domain that stands for all."""
MARK, ESCAPE = b"url", b"\\u00"
_ESCAPED = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
_MEDIA = re.compile(rb'_url"\s*:')
_BLANK = rb"(?:[\x00-\x20]|\\[ntrbf]|\\u00[01][0-9a-fA-F])*"
_URL = re.compile(
    rb'(?<!\\)"(?:[A-Za-z0-9_]*_)?url"\s*:\s*"'
    + _BLANK
    + rb'([A-Za-z][A-Za-z0-9+.\\-]*):([^"]{0,512})'
)
_HOST = re.compile(r"[/\\]*(?:[^/\\?#@]*@)?(\[[^\]]*\]|[^/\\?#:@]*)")
HTTP = frozenset({b"http", b"https"})
KEPT = frozenset(b'"\\')
"""Characters whose escapes stay, as they would end the text around them."""


def check(body: bytes, domains: Collection[str]) -> None:
    """Refuse a request whose media lie elsewhere than in the request or at an allowed host.

    Args:
        body: the request's JSON.
        domains: hosts that media may come from; ``ANY`` allows all.

    Raises:
        ApiError: an address names another host, or is none of ``data:``, ``http:``, ``https:``.
    """
    if ANY in domains or (MARK not in body and ESCAPE not in body):
        return
    if ESCAPE in body:
        body = _ESCAPED.sub(_plain, body)
    if _MEDIA.search(body) is None:
        return
    for scheme, rest in _URL.findall(body):
        kind = scheme.lower()
        if kind != b"data" and (kind not in HTTP or _host(rest) not in domains):
            raise errors.media_refused()


def _plain(found: re.Match[bytes]) -> bytes:
    """Return the character of an escape that a letter may be hidden by."""
    number = int(found[1], 16)
    return found[0] if number in KEPT else bytes((number,))


def _host(rest: bytes) -> str:
    """Return the host of an address after its scheme and colon; strange when in doubt."""
    text = rest.replace(b"\\/", b"/").decode("latin-1")
    found = _HOST.match(text)
    # Two readers may take a backslash or a second @ differently, and then reach different hosts.
    if found is None or "\\" in text or text.count("@"):
        return ""
    return found[1].lower()
