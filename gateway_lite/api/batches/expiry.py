"""Files that expire: the lifetime that a client asks for, and the removal afterwards."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from gateway_lite import errors
from hpc.errors import StateError
from hpc.openai_batches import records as batch_records

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

ANCHOR = "created_at"
SHORTEST_S, LONGEST_S = 3600, 30 * 24 * 3600
"""Bounds of a lifetime, as in OpenAI's API."""
SWEEP_S = 600.0
"""Seconds between two removals of expired files; an expired file is no longer found at once."""


def lifetime(asked: Any, param: str) -> int | None:
    """Return the seconds after its creation for which a file is kept; None without a limit.

    Args:
        asked: the client's object with ``anchor`` and ``seconds``, or None.
        param: name of the field, for the error.

    Raises:
        ApiError: the object has another form, or the seconds are out of bounds.
    """
    if asked is None:
        return None
    fits = isinstance(asked, dict) and asked.keys() == {"anchor", "seconds"}
    seconds = asked["seconds"] if fits and asked["anchor"] == ANCHOR else None
    if type(seconds) is int and SHORTEST_S <= seconds <= LONGEST_S:
        return seconds
    told = (
        f"{param} is no object with 'anchor': '{ANCHOR}' and 'seconds' from {SHORTEST_S} to"
        f" {LONGEST_S}"
    )
    raise errors.bad_request(told, param=param)


def in_form(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return ``expires_after`` of a form, whose fields name anchor and seconds in brackets."""
    names = ("anchor", "seconds")
    found: dict[str, Any] = {
        name: fields[f"expires_after[{name}]"]
        for name in names
        if f"expires_after[{name}]" in fields
    }
    seconds = found.get("seconds", "")
    if seconds.isascii() and seconds.isdecimal() and len(seconds) < len(str(LONGEST_S)) + 1:
        found["seconds"] = int(seconds)
    return found or None


class ExpiredFiles:
    """The removal of expired files; blocks, and runs in the watching thread.

    Args:
        root: the state directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._due = 0.0

    def look(self) -> None:
        """Remove what has expired, every SWEEP_S."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + SWEEP_S
        try:
            batch_records.remove_expired(self._root, time.time())
        except (StateError, OSError) as error:
            log.warning("expired files stay: %s", error)
