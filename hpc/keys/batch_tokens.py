"""Batch tokens: credentials of a batch's workers in place of the client's key, which is not stored.

A batch token names a key by id, a batch and an expiry, and is signed with a secret of the state
directory (HMAC-SHA-256). So the token has exactly the key's rights, and none once the key is
revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.state import directory, files, lock

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"hb-"
_SECRET = re.compile(r"[0-9a-f]{64}")
_PASS = re.compile(rb"hb-([0-9a-f]{8})\.(batch_[0-9a-f]{24})\.([0-9]{1,12})\.([0-9a-f]{64})")


def path(root: Path) -> Path:
    """Return the file with the secret, mode 0600."""
    return directory.batch_token_secret_path(root)


def load(file: Path) -> bytes | None:
    """Return the secret, or None if no secret exists."""
    found = _SECRET.fullmatch((files.read_text(file) or "").strip())
    return bytes.fromhex(found[0]) if found else None


def ensure(file: Path) -> bytes:
    """Return the secret, made if missing.

    Raises:
        StateError: the secret cannot be written.
    """
    found = load(file)
    if found is None:
        with lock.exclusive(file):
            # A second look under the lock: two writers would leave one with a useless secret.
            if load(file) is None:
                files.write_text(file, secrets.token_hex(32) + "\n")
        found = load(file)
    if found is None:
        raise StateError(f"cannot read {file}")
    return found


def issue(secret: bytes, key: str, batch: str, ends_at: int) -> str:
    """Return a signed batch token.

    Args:
        secret: the state directory's secret.
        key: id of the batch's client key.
        batch: id of the batch.
        ends_at: Unix time of the expiry.
    """
    said = f"hb-{key}.{batch}.{ends_at}"
    return f"{said}.{_sign(secret, said.encode())}"


def holder(secret: bytes, presented: bytes) -> str | None:
    """Return the key's id in a batch token; None for a forged, malformed or expired token."""
    found = _PASS.fullmatch(presented)
    if found is None:
        return None
    said = presented.rpartition(b".")[0]
    # The signature first, in constant time: nothing in a forged token is trusted.
    if not hmac.compare_digest(_sign(secret, said).encode(), found[4]):
        return None
    return found[1].decode() if time.time() < int(found[3]) else None


def _sign(secret: bytes, said: bytes) -> str:
    return hmac.new(secret, said, hashlib.sha256).hexdigest()
