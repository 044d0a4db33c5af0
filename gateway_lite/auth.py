"""Who may use what: client keys, read again whenever their file changes."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from gateway_lite import errors
from hpc import keys
from hpc.errors import ConfigError, StateError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

ANYBODY = keys.ClientKey(
    id="00000000",
    name="anonymous",
    sha256="0" * 64,
    created=datetime.fromtimestamp(0, timezone.utc),
)


class Keys:
    """The keys in force.

    ``refresh`` blocks and belongs to the watching thread; ``find`` never does.

    Args:
        path: keys.yaml.
        anonymous: let in who shows no key at all; a wrong key stays wrong.
    """

    def __init__(self, path: Path, *, anonymous: bool = False) -> None:
        self._path = path
        self._anonymous = anonymous
        self._stamp: keys.Stamp | None = None
        self._ring: keys.Keyring | None = None
        self._complaint = ""

    def refresh(self) -> None:
        """Read the file if it changed.

        One that may not be used admits nobody; one that cannot be read just now changes nothing.
        """
        complaint = ""
        try:
            self._read()
        except StateError as error:
            complaint = f"{error}; the keys known so far count"
        except ConfigError as error:
            self._stamp = self._ring = None
            complaint = f"{error}; nobody is let in until that is mended"
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint

    def _read(self) -> None:
        found = keys.stamp(self._path)
        if found == self._stamp and self._ring is not None:
            return
        entries = keys.load(self._path)
        self._stamp, self._ring = found, keys.Keyring(entries)
        log.info("keys: %d in the file", len(entries))

    def all(self) -> tuple[keys.ClientKey, ...]:
        """Return all keys of the file; none where it may not be used."""
        return () if self._ring is None else self._ring.keys

    def find(self, token: bytes) -> keys.ClientKey | None:
        """Return the key in force that was presented, or None.

        Raises:
            ApiError: the file may not be used, or was not read yet.
        """
        if self._ring is None:
            raise errors.keys_unusable()
        if self._anonymous and not token:
            return ANYBODY
        return self._ring.find(token)
