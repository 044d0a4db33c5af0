"""Our own gateway as a peer, with and without a replica: everything on, as users run it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.keys import store as key_store
from hpc.state import directory
from scripts.bench.peers import LOCAL, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).resolve().parents[2]
HUGE = 1_000_000_000
LIMITS = {"rpm": HUGE, "tpm": HUGE, "concurrency": 100_000}
PYTHON = {"PYTHONPATH": str(PROJECT), "XDG_CONFIG_HOME": "/nonexistent"}


def gateway(work: Path) -> Peer:
    """Return the gateway with a state directory, limits on its key, metrics and access log."""
    home = directory.home(str(work / "ours"))
    key, _ = key_store.add(directory.keys_path(home), "bench", **_limits())
    entry = {"name": "mock", "backend": "vllm", "backend_url": LOCAL}
    models = json.dumps({"version": 1, "models": [entry]})
    program = (sys.executable, "-m", "gateway_lite", "run", "--home", str(home))
    return Peer(
        (*program, "--models", "{WORK}/ours.yaml", "--port", "{PORT}"),
        {"ours.yaml": models},
        PYTHON,
        (f"Authorization: Bearer {key}",),
    )


def _limits() -> dict[str, Any]:
    """Return limits that are counted and never reached, where keys can have any."""
    try:
        from hpc.keys.limits import KeyLimits  # noqa: PLC0415
    except ImportError:
        return {}
    return {"limits": KeyLimits(**LIMITS)}


def replica(work: Path, *, tls: bool = False) -> Peer:
    """Return the gateway with a replica's sidecar behind it."""
    work = work / ("ours-replica-tls" if tls else "ours-replica")
    home = directory.home(str(work / "home"))
    key, _ = key_store.add(directory.keys_path(home), "bench", **_limits())
    program = (sys.executable, "-m", "scripts.bench.replica", "--work", str(work))
    return Peer(
        (*program, "--port", "{PORT}", "--engine", "{MOCK}", *(("--tls",) if tls else ())),
        env=PYTHON,
        headers=(f"Authorization: Bearer {key}",),
    )


OURS: dict[str, Callable[[Path], Peer]] = {
    "ours": gateway,
    "ours-replica": replica,
    "ours-replica-tls": partial(replica, tls=True),
}
