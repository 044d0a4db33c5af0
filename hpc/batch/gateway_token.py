"""The batch token of a batch that the gateway of the machine answers.

The folder of the batch holds a token in place of the owner's key: it opens inference alone, and
nothing once the batch is done or cancelled.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpc.batch.folder import BatchFolder
from hpc.errors import BatchError
from hpc.gateway import owner_access
from hpc.keys import batch_tokens
from hpc.keys import store as key_store
from hpc.state import directory, files

if TYPE_CHECKING:
    from pathlib import Path

GOOD_S = 300 * 86400
"""Seconds of validity from the last submission of workers; the name of a batch recurs in a year."""


def grant(root: Path, batch: str) -> None:
    """Give a batch a new token of its owner's key.

    Args:
        root: the state directory.
        batch: the batch's id.

    Raises:
        ConfigError: the keys file is not usable.
        StateError: the token cannot be written.
    """
    end(root, batch)
    owner = owner_access.owner_key(root)
    key = key_store.Keyring(key_store.load(directory.keys_path(root))).find(owner.encode())
    if key is None:
        raise BatchError(f"the owner's key was revoked while batch {batch} was submitted")
    token = batch_tokens.grant(root, key.id, batch, int(time.time()) + GOOD_S)
    files.write_text(BatchFolder.of(root, batch).key, token)


def end(root: Path, batch: str) -> None:
    """Make a batch's own token void, as the batch is done or cancelled.

    Tokens of OpenAI batches are named after those, and end with them.
    """
    secret = batch_tokens.load(batch_tokens.path(root))
    kept = (files.read_text(BatchFolder.of(root, batch).key) or "").strip()
    holder = None if secret is None else batch_tokens.holder(secret, kept.encode())
    if holder is not None and holder.batch == batch:
        batch_tokens.end(root, holder.key, holder.batch)
