"""A batch's status as text for people and as JSON for scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hpc.cli import output
from hpc.state import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc.batch.control import BatchStatus
    from hpc.batch.throughput import ThroughputSample

BARS = "▁▂▃▄▅▆▇█"


def progress(seen: BatchStatus) -> str:
    """Return the progress of a batch in a line."""
    from hpc.batch import throughput

    rate, tokens = throughput.recent(seen.workers, time.time())
    nodes = sorted({one.host for one in seen.workers if not one.ended})
    alive = sum(not one.ended for one in seen.workers)
    to_go = seen.spec.rows - seen.done
    eta = f", {output.duration(to_go / rate)} to go" if rate and to_go else ""
    place = f" on {', '.join(nodes)}" if nodes else ""
    cost = f", {seen.hours.gpus:.2f} GPU-hours" if seen.hours.gpus else ""
    return (
        f"{seen.spec.id} {seen.state}: {seen.done} of {seen.spec.rows} done, {seen.failed} failed, "
        f"{rate:.1f} requests/s, {tokens:.0f} tokens/s, {alive} worker(s){place}{cost}{eta}"
        + "".join(f"; {text}" for text in waits(seen))
    )


def waits(seen: BatchStatus) -> list[str]:
    """Return the reasons for a batch's standstill, each reason once."""
    if seen.why is not None:
        return [f"paused as {seen.why}; 'hpc-serve batch resume {seen.spec.id}' goes on"]
    causes = [one.cause for one in seen.workers if one.cause and not one.ended]
    blocked = [f"job {job.job_id}: {at.reason}" for job, at in seen.jobs if at.blocked]
    return list(dict.fromkeys((*causes, *blocked)))


def as_dict(seen: BatchStatus) -> dict[str, Any]:
    """Return a batch for JSON output, without secrets."""
    from hpc.batch import throughput

    rate, tokens = throughput.recent(seen.workers, time.time())
    return {
        "id": seen.spec.id,
        "state": seen.state,
        "requests": seen.spec.rows,
        "done": seen.done,
        "good": seen.good,
        "failed": seen.failed,
        "requests_per_s": round(rate, 3),
        "tokens_per_s": round(tokens, 1),
        "worker_hours": round(seen.hours.workers, 4),
        "gpu_hours": round(seen.hours.gpus, 4),
        "on_done": seen.on_done,
        "waits": waits(seen),
        "spec": records.encode(seen.spec),
        "workers": [records.encode(one) for one in seen.workers],
        "jobs": [
            {"job": records.encode(job), "status": records.encode(found)}
            for job, found in seen.jobs
        ],
        "report": seen.report,
    }


def report_lines(seen: BatchStatus, paces: Sequence[ThroughputSample]) -> list[str]:
    """Return the report of a batch, line by line."""
    spec, workers = seen.spec, seen.workers
    made = seen.report or {}
    nodes = ", ".join(sorted({one.host for one in workers})) or "none"
    worked = paces[-1].at - paces[0].at if paces else 0.0
    tokens = sum(one.tokens for one in workers)
    spent = max(worked, 1e-9)
    since = output.duration((made.get("ended_at") or time.time()) - spec.made_at)
    cost = f"{seen.hours.workers:.2f} hours, {seen.hours.gpus:.2f} GPU-hours"
    counts = f"{seen.done} of {spec.rows} done, {seen.good} answered, {seen.failed} failed"
    lines = [
        f"batch {spec.id}: {seen.state}, {counts}",
        f"output   {spec.output}" + ("" if made else " (not written yet)"),
        f"time     {since} since it was submitted, {output.duration(worked)} of work",
        f"workers  {len(workers)} on {nodes}: {cost}",
        f"retries  {sum(one.retried for one in workers)}",
        f"tokens   {tokens} of completions",
    ]
    if worked:
        done = sum(one.good + one.failed for one in workers)
        lines.append(f"pace     {done / spent:.1f} requests/s, {tokens / spent:.0f} tokens/s")
        lines.append(f"         {bars([pace.requests for pace in paces])}")
    return [*lines, *(f"on done  {text}" for text in on_done(seen))]


def on_done(seen: BatchStatus) -> list[str]:
    """Return the result of the user's command as lines, empty before the command's end."""
    if not seen.on_done:
        return []
    status, said = seen.on_done["status"], str(seen.on_done["output"]).strip().splitlines()
    why = f": {said[-1]}" if status != 0 and said else ""
    return [f"the command {'did not end' if status is None else f'ended with {status}'}{why}"]


def bars(values: Sequence[float]) -> str:
    """Return values as a line of bars, scaled to the highest value."""
    top = max(values, default=0.0) or 1.0
    return "".join(BARS[round(max(0.0, value) / top * (len(BARS) - 1))] for value in values)
