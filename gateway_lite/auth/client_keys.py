"""Client keys, read again whenever their file changes."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from gateway_lite import errors
from hpc.errors import ConfigError, StateError
from hpc.keys import batch_tokens
from hpc.keys import store as key_store
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

READ_S = 5.0
"""Age of the last complete read of the keys beyond which the file system counts as hanging."""

ANYBODY = key_store.ClientKey(
    id=key_store.ANONYMOUS_ID,
    name="anonymous",
    sha256="0" * 64,
    created=datetime.fromtimestamp(0, timezone.utc),
)


class ClientKeys:
    """The keys in force.

    ``refresh`` blocks and runs in the watching thread; ``find`` never blocks.

    Args:
        root: the state directory, with keys.yaml and the marks of batches in progress.
        anonymous: admit requests without any key; a wrong key stays wrong.
    """

    def __init__(self, root: Path, *, anonymous: bool = False) -> None:
        self._root = root
        self._path = directory.keys_path(root)
        self._anonymous = anonymous
        self._secret: bytes | None = None
        self._in_progress: frozenset[batch_tokens.TokenHolder] = frozenset()
        self._read_at = 0.0
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
            if self._secret is None:
                self._secret = batch_tokens.ensure(batch_tokens.path(self._root))
            known = self._in_progress
            # Batches that ended; a batch that the event loop adds meanwhile is added again later.
            self._in_progress = frozenset(
                one for one in known if batch_tokens.in_progress(self._root, one)
            )
            self._read_at = time.monotonic()
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

    def in_force(self) -> frozenset[str] | None:
        """Return the ids of all keys in force now; None while the file is unusable."""
        if self._ring is None:
            return None
        now = datetime.now(timezone.utc)
        found = {key.id for key in self._ring.keys if key.in_force(now)}
        return frozenset(found | {ANYBODY.id} if self._anonymous else found)

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
        return ring.find(token)

    def find_for_inference(self, token: bytes) -> key_store.ClientKey | None:
        """Return the key in force that is presented, or that stands behind a batch token, or None.

        A batch token opens inference alone, so all other paths use ``find``.

        Raises:
            ApiError: the file is unusable, or was not read yet.
        """
        if not token.startswith(batch_tokens.PREFIX):
            return self.find(token)
        if self._secret is None or self._ring is None:
            raise errors.keys_unusable()
        holder = batch_tokens.holder(self._secret, token)
        if holder is None or not self._is_in_progress(holder):
            return None
        if self._anonymous and holder.key == ANYBODY.id:
            return ANYBODY
        key = self._by_id.get(holder.key)
        return key if key is not None and key.in_force(datetime.now(timezone.utc)) else None

    def _is_in_progress(self, holder: batch_tokens.TokenHolder) -> bool:
        """Return whether a token's batch is in progress, as of the last half second."""
        if holder in self._in_progress:
            return True
        # A batch's first request: one look at the file system in the event loop, and only while
        # the watching thread's reads return, since a hanging file system would stop all streams.
        if time.monotonic() - self._read_at > READ_S:
            raise errors.keys_unusable()
        if not batch_tokens.in_progress(self._root, holder):
            return False
        self._in_progress |= {holder}
        return True
