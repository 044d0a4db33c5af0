"""Requests that web pages make a browser send to a gateway without keys.

A gateway without keys trusts whoever reaches loopback, and so does every browser of the machine, at
the far end of a tunnel too. A foreign page must not use that: neither by a name of its own that its
DNS server lets point to 127.0.0.1 (DNS rebinding, seen by Host), nor by a request to our address
(cross-site request forgery, seen by Origin and Sec-Fetch-Site). Requests with a key need no such
check, as no page knows a key.

Source: https://fetch.spec.whatwg.org/#origin-header, https://www.w3.org/TR/fetch-metadata/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway_lite import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    Address = tuple[str, int | None]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
HOST = re.compile(r"(\[[0-9a-f:]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::[0-9]{1,5})?")
OURS = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site for our own page, and for an address that the user typed."""
JSON = "application/json"
PROGRAMS = ("curl/", "wget/")
"""Beginnings of User-Agent of programs that call any body a form unless told otherwise. No browser
has such a name, and no page can give its browser one without the server's permission.
"""
UPLOADS = frozenset({"/v1/files"})
"""Paths whose POST takes a form instead of JSON."""


class WebPageGuard:
    """The check of requests without a key."""

    def __init__(self) -> None:
        self._origins: frozenset[str] = frozenset()

    def adopt(self, origins: tuple[str, ...]) -> None:
        """Let pages of these origins ask from now on; "*" lets none, as it would let all."""
        self._origins = frozenset(origins) - {"*"}

    def check(
        self, method: str, path: str, headers: Mapping[bytes, bytes], server: Address | None
    ) -> None:
        """Refuse a request that a foreign web page may have caused.

        Args:
            method: HTTP method.
            path: path of the URL.
            headers: headers by lower-case name.
            server: address and port of the connection's end at the gateway; the path of a Unix
                socket and None.

        Raises:
            ApiError: the request names another host, comes from a foreign page, or is none of the
                kinds that a browser sends only with the server's permission.
        """
        host = _text(headers, b"host").lower()
        check_host(host, server)
        origin = _text(headers, b"origin")
        allowed = origin in self._origins
        if origin and not allowed and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise errors.cross_site()
        site = _text(headers, b"sec-fetch-site").lower()
        if site and site not in OURS and not allowed:
            raise errors.cross_site()
        if method == "POST" and path not in UPLOADS and _has_body(headers):
            kind = _text(headers, b"content-type").partition(";")[0].strip().lower()
            if kind != JSON and not _is_program(headers):
                raise errors.not_json()


def check_host(host: str, server: Address | None) -> None:
    """Refuse a Host header that a name of another may have brought here.

    Args:
        host: the header in lower case; empty without any.
        server: address and port of the connection's end at the gateway.

    Raises:
        ApiError: the host is none of this machine's own.
    """
    found = HOST.fullmatch(host)
    name = "" if found is None else found[1]
    address, port = server or ("", None)
    if name in LOOPBACK or (name and name in (address, f"[{address}]")):
        return
    # Clients of a Unix socket write any word. A tunnel's port leads to the socket, though, and a
    # browser's names have dots: a public name without one has no address.
    if port is None and "." not in host:
        return
    raise errors.misdirected(host)


def _is_program(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request comes from a program that no web page can drive."""
    page = b"origin" in headers or b"sec-fetch-site" in headers
    return not page and _text(headers, b"user-agent").lower().startswith(PROGRAMS)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").strip()


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or _text(headers, b"content-length") not in ("", "0")
