"""A batch as people and as scripts read it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hpc import state
from hpc.cli import output

if TYPE_CHECKING:
    from hpc.batch.cases import Look


def progress(seen: Look) -> str:
    """Return how far a batch is, in one line."""
    spent = max(1.0, time.time() - seen.spec.made_at)
    alive = [one for one in seen.workers if not one.ended]
    tokens = sum(one.tokens for one in seen.workers)
    rate = (seen.good + seen.failed) / spent
    to_go = seen.spec.rows - seen.done
    eta = f", {output.duration(to_go / rate)} to go" if rate and to_go else ""
    return (
        f"{seen.spec.id} {seen.state}: {seen.done} of {seen.spec.rows} done, {seen.failed} failed, "
        f"{rate:.1f} requests/s, {tokens / spent:.0f} tokens/s, {len(alive)} worker(s){eta}"
    )


def as_dict(seen: Look) -> dict[str, Any]:
    """Return a batch as scripts read it; it holds no secret."""
    return {
        "id": seen.spec.id,
        "state": seen.state,
        "requests": seen.spec.rows,
        "done": seen.done,
        "good": seen.good,
        "failed": seen.failed,
        "spec": state.encode(seen.spec),
        "workers": [state.encode(one) for one in seen.workers],
        "jobs": [
            {"job": state.encode(job), "status": state.encode(found)} for job, found in seen.jobs
        ],
        "report": seen.report,
    }
