"""Client keys, read again whenever their file changes."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from gateway_lite import errors
from hpc.errors import ConfigError, StateError
from hpc.keys import batch_tokens
from hpc.keys import store as key_store

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

ANYBODY = key_store.ClientKey(
    id="00000000",
    name="anonymous",
    sha256="0" * 64,
    created=datetime.fromtimestamp(0, timezone.utc),
)


class ClientKeys:
    """The keys in force.

    ``refresh`` blocks and runs in the watching thread; ``find`` never blocks.

    Args:
        path: path of keys.yaml.
        anonymous: admit requests without any key; a wrong key stays wrong.
        token_secret: path of the secret that signs batch tokens; None accepts no batch token.
    """

    def __init__(
        self, path: Path, *, anonymous: bool = False, token_secret: Path | None = None
    ) -> None:
        self._path = path
        self._anonymous = anonymous
        self._token_secret = token_secret
        self._secret: bytes | None = None
        self._by_id: dict[str, key_store.ClientKey] = {}
        self._stamp: key_store.Stamp | None = None
        self._ring: key_store.Keyring | None = None
        self._complaint = ""

    def refresh(self) -> None:
        """Read the file if it changed.

        An unusable file admits no key; a file that cannot be read at the moment changes nothing.
        """
        complaint = ""
        try:
            self._read()
            if self._token_secret is not None and self._secret is None:
                self._secret = batch_tokens.ensure(self._token_secret)
        except StateError as error:
            complaint = f"{error}; the last known keys stay in force"
        except ConfigError as error:
            self._stamp = self._ring = None
            complaint = f"{error}; no key is accepted until the file is mended"
        if complaint and complaint != self._complaint:
            log.error("%s", complaint)
        self._complaint = complaint

    def _read(self) -> None:
        found = key_store.stamp(self._path)
        if found == self._stamp and self._ring is not None:
            return
        entries = key_store.load(self._path)
        self._by_id = {key.id: key for key in entries}
        self._stamp, self._ring = found, key_store.Keyring(entries)
        log.info("keys: %d in the file", len(entries))

    def all(self) -> tuple[key_store.ClientKey, ...]:
        """Return all keys of the file; none if the file is unusable."""
        return () if self._ring is None else self._ring.keys

    def find(self, token: bytes) -> key_store.ClientKey | None:
        """Return the presented key if in force, or None.

        Raises:
            ApiError: the file is unusable, or was not read yet.
        """
        ring = self._ring
        if ring is None:
            raise errors.keys_unusable()
        if self._anonymous and not token:
            return ANYBODY
        if token.startswith(batch_tokens.PREFIX):
            return self._bearer_of(token)
        return ring.find(token)

    def _bearer_of(self, token: bytes) -> key_store.ClientKey | None:
        """Return the key in force behind a batch token."""
        if self._secret is None:
            raise errors.keys_unusable()
        name = batch_tokens.holder(self._secret, token)
        if self._anonymous and name == ANYBODY.id:
            return ANYBODY
        key = self._by_id.get(name or "")
        return key if key is not None and key.in_force(datetime.now(timezone.utc)) else None
