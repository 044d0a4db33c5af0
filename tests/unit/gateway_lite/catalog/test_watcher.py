"""The watcher's rounds and the two seconds that the documents promise."""

from __future__ import annotations

from gateway_lite.catalog import models_file, watcher


def test_an_edit_and_a_revoked_key_count_within_two_seconds() -> None:
    """The rounds leave a quarter of the time to the reads; contract tests run the rounds."""
    noticed = watcher.TICK_S
    settled = noticed + models_file.SETTLE_S + watcher.TICK_S

    assert max(noticed, settled) <= 0.75 * 2.0
