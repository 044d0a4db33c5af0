"""Hints for clients whose base URL is not quite the gateway's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

SLASHES = re.compile(r"/{2,}")
PAGES = ("/v1/models", "/v1/files", "/v1/batches", "/api/tags", "/api/version", "/api/show")
"""Paths beside those of engines that clients ask for first."""
BASE = "/v1"
PREFIXES = re.compile(r"^(?:/(?:v1|v1beta|openai|api|api/v1|openai/v1))+(?=/)")
"""Beginnings that other servers have, which clients keep in their base URL."""


def hint(path: str, posts: Collection[str]) -> str:
    """Return the words for a path that a repaired base URL would have reached; empty without any.

    Args:
        path: the path that is not served.
        posts: paths that engines serve.
    """
    meant = _meant(path, {*posts, *PAGES})
    if meant is None:
        if SLASHES.sub("/", path).rstrip("/") in ("", BASE):
            return "a client's base URL is http://HOST:PORT/v1, and it asks for paths below"
        return ""
    if meant.startswith(BASE + "/"):
        return f"meant is {meant}: the base URL ends in /v1, once and without a slash"
    return f"meant is {meant}: the base URL ends without a slash and without /v1"


def _meant(path: str, served: Collection[str]) -> str | None:
    """Return the served path that a client meant, or None."""
    plain = SLASHES.sub("/", path).rstrip("/")
    end = PREFIXES.sub("", plain)
    for candidate in (plain, BASE + end, end, "/api" + end, BASE + plain):
        if candidate in served and candidate != path:
            return candidate
    return None
