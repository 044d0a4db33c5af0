"""Batch tokens: credentials of a batch's workers in place of the client's key, which is not stored.

A batch token names a key by id, a batch and an expiry, and is signed with a secret of the state
directory (HMAC-SHA-256). The token opens inference alone, by the key's models and limits, and
nothing once the key is revoked or the batch has ended: an empty file marks each batch in progress.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from hpc.errors import StateError
from hpc.state import directory, files, lock

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"hb-"
_SECRET = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(
    rb"hb-([0-9a-f]{8})\.([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.([0-9]{1,12})\.([0-9a-f]{64})"
)


class TokenHolder(NamedTuple):
    """The holder of a batch token: the id of a client key, and the id of a batch."""

    key: str
    batch: str


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


def grant(root: Path, key: str, batch: str, ends_at: int) -> str:
    """Mark a batch as in progress, and return its token; a second token is as good as the first.

    Args:
        root: the state directory.
        key: id of the batch's client key.
        batch: id of the batch.
        ends_at: Unix time of the expiry.

    Raises:
        StateError: the mark or the secret cannot be written.
    """
    secret, mark = ensure(path(root)), _mark(root, TokenHolder(key, batch))
    try:
        mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mark.touch(mode=0o600)
    except OSError as error:
        raise StateError(f"cannot write {mark}: {error.strerror}") from error
    return issue(secret, key, batch, ends_at)


def end(root: Path, key: str, batch: str) -> None:
    """Make all tokens of a batch void, as the batch is done or cancelled."""
    with contextlib.suppress(OSError):
        _mark(root, TokenHolder(key, batch)).unlink(missing_ok=True)


def in_progress(root: Path, holder: TokenHolder) -> bool:
    """Return whether the batch of a token was begun and has not ended."""
    return _mark(root, holder).exists()


def _mark(root: Path, holder: TokenHolder) -> Path:
    return directory.batch_tokens_dir(root) / f"{holder.key}.{holder.batch}"


def issue(secret: bytes, key: str, batch: str, ends_at: int) -> str:
    """Return a signed batch token, good while ``in_progress`` holds for its batch.

    Args:
        secret: the state directory's secret.
        key: id of the batch's client key.
        batch: id of the batch.
        ends_at: Unix time of the expiry.
    """
    said = f"hb-{key}.{batch}.{ends_at}"
    return f"{said}.{_sign(secret, said.encode())}"


def holder(secret: bytes, presented: bytes) -> TokenHolder | None:
    """Return the holder of a batch token; None for a forged, malformed or expired token."""
    found = _TOKEN.fullmatch(presented)
    if found is None:
        return None
    said = presented.rpartition(b".")[0]
    # The signature first, in constant time: nothing in a forged token is trusted.
    if not hmac.compare_digest(_sign(secret, said).encode(), found[4]):
        return None
    if time.time() >= int(found[3]):
        return None
    return TokenHolder(found[1].decode(), found[2].decode())


def _sign(secret: bytes, said: bytes) -> str:
    return hmac.new(secret, said, hashlib.sha256).hexdigest()
