"""A process that takes all it can get: hammer.py FILE WORKER RPM TPM CONCURRENCY."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime, timezone

from gateway_lite.auth.rate_limits import Limits
from gateway_lite.auth.usage_store import Shared, UsageStore
from gateway_lite.errors import ApiError
from hpc.keys.limits import KeyLimits
from hpc.keys.store import ClientKey

TRIES = 2000
TOKENS = 7


def tell(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Try again and again, and print how often that was allowed."""
    path, worker, rpm, tpm, concurrency = sys.argv[1], *map(int, sys.argv[2:])
    key = ClientKey(
        id="000000aa",
        name="ada",
        sha256="0" * 64,
        limits=KeyLimits(rpm=rpm or None, tpm=tpm or None, concurrency=concurrency or None),
        created=datetime.now(timezone.utc),
    )
    limits = Limits(UsageStore(Shared(path, worker)))
    tell("ready")
    sys.stdin.readline()
    held = []
    for _ in range(TRIES):
        with contextlib.suppress(ApiError):
            held.append(limits.reserve(key, TOKENS))
        if concurrency == 0 and held:
            held[-1].settle(TOKENS)
    tell(json.dumps(len(held)))
    sys.stdin.readline()
    for reservation in held:
        reservation.settle(TOKENS)


if __name__ == "__main__":
    main()
