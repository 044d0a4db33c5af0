"""A batch's specification, its target, its cost and its final report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpc.batch import throughput
from hpc.batch.folder import BatchFolder
from hpc.batch.ledger import claims, heartbeats, merge
from hpc.batch.model import BatchSpec, BatchTarget
from hpc.errors import BatchError
from hpc.gateway import reach
from hpc.state import files as state_files
from hpc.state import records
from hpc.state import records as state_records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from hpc.batch.ledger.filesystem import FileSystem
    from hpc.batch.model import BatchWorker


def load(folder: Path) -> BatchSpec:
    """Return the specification of a batch.

    Raises:
        BatchError: the batch does not exist.
    """
    spec = state_records.read_record(BatchFolder(folder).spec, BatchSpec)
    if spec is None:
        raise BatchError(f"there is no batch {folder.name!r}", hint="see 'hpc-serve batch ls'")
    return spec


def target(folder: Path) -> BatchTarget:
    """Return the server for the requests of a batch without engines: the machine's gateway.

    Raises:
        BatchError: the batch has no token for the gateway.
    """
    token = state_files.read_text(BatchFolder(folder).key)
    if token is None:
        raise BatchError(f"the batch {folder.name!r} has neither an engine nor a gateway's token")
    return BatchTarget(reach.URL, token.strip(), home=str(BatchFolder(folder).home))


def report(folder: Path) -> dict[str, Any] | None:
    """Return the report of a finished batch, or None."""
    text = state_files.read_text(BatchFolder(folder).report)
    try:
        found: dict[str, Any] | None = json.loads(text) if text else None
    except ValueError:
        return None
    return found


@dataclass(frozen=True, slots=True)
class Hours:
    """The cost of a batch: worker hours, and GPU hours of all workers."""

    workers: float
    gpus: float


def hours(workers: Iterable[BatchWorker]) -> Hours:
    """Return the cost of a batch so far."""
    spent = [(max(0.0, one.beat_at - one.started_at) / 3600, one.gpus) for one in workers]
    return Hours(sum(time for time, _ in spent), sum(time * gpus for time, gpus in spent))


def reopen(files: FileSystem, folder: Path, spec: BatchSpec) -> int:
    """Reopen the chunks in ``done`` that lack answers, and return their number."""
    bad = list(merge.incomplete(files, folder, spec))
    return sum(claims.reopen(files, folder, claim) for claim in bad)


def conclude(files: FileSystem, folder: Path, spec: BatchSpec) -> dict[str, Any]:
    """Write output and report, unless they exist; writing twice does no harm.

    Raises:
        BatchError: an answer is missing, or the output cannot be written.
    """
    # Two workers may get here at once: both write the same whole files, which does no harm.
    before = report(folder)
    if before is not None:
        return before
    merged = merge.merge(files, folder, spec)
    workers = heartbeats.load_all(files, folder)
    spent = hours(workers)
    rate, tokens = throughput.overall(workers)
    made = {
        "id": spec.id,
        "output": spec.output,
        "requests": merged.rows,
        "good": merged.good,
        "failed": merged.failed,
        "retries": sum(one.retried for one in workers),
        "completion_tokens": sum(one.tokens for one in workers),
        "requests_per_s": round(rate, 3),
        "tokens_per_s": round(tokens, 1),
        "worker_hours": round(spent.workers, 4),
        "gpu_hours": round(spent.gpus, 4),
        "workers": [records.encode(one) for one in workers],
        "made_at": spec.made_at,
        "ended_at": time.time(),
    }
    state_files.write_text(BatchFolder(folder).report, json.dumps(made, indent=1) + "\n")
    return made
