"""What the workers of a batch show the gateway in place of the client's key, which nobody keeps.

A pass names a key by its id, a batch and an end, and is signed with a secret of the state
directory (HMAC-SHA-256). So it opens what the key opens, and nothing once that is revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import TYPE_CHECKING

from hpc import lock, state
from hpc.errors import StateError

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"hb-"
_SECRET = re.compile(r"[0-9a-f]{64}")
_PASS = re.compile(rb"hb-([0-9a-f]{8})\.(batch_[0-9a-f]{24})\.([0-9]{1,12})\.([0-9a-f]{64})")


def path(root: Path) -> Path:
    """Return the file with the secret, mode 0600."""
    return root / "batch.key"


def load(file: Path) -> bytes | None:
    """Return the secret, or None where there is none."""
    found = _SECRET.fullmatch((state.read_text(file) or "").strip())
    return bytes.fromhex(found[0]) if found else None


def ensure(file: Path) -> bytes:
    """Return the secret, made where it is missing.

    Raises:
        StateError: it cannot be written.
    """
    found = load(file)
    if found is None:
        with lock.exclusive(file):
            if load(file) is None:
                state.write_text(file, secrets.token_hex(32) + "\n")
        found = load(file)
    if found is None:
        raise StateError(f"cannot read {file}")
    return found


def issue(secret: bytes, key: str, batch: str, ends_at: int) -> str:
    """Return a pass.

    Args:
        secret: of the state directory.
        key: id of the key whose batch it is.
        batch: its id.
        ends_at: Unix time at which it ends.
    """
    said = f"hb-{key}.{batch}.{ends_at}"
    return f"{said}.{_sign(secret, said.encode())}"


def holder(secret: bytes, presented: bytes) -> str | None:
    """Return the id of the key that a pass stands for; None where it is none, or has ended."""
    found = _PASS.fullmatch(presented)
    if found is None:
        return None
    said = presented.rpartition(b".")[0]
    if not hmac.compare_digest(_sign(secret, said).encode(), found[4]):
        return None
    return found[1].decode() if time.time() < int(found[3]) else None


def _sign(secret: bytes, said: bytes) -> str:
    return hmac.new(secret, said, hashlib.sha256).hexdigest()
