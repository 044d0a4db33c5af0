"""A run of a schedule: a new batch, a resumed batch, or a skip while a batch still runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.batch import control as batch_control
from hpc.batch.schedule import schedules as batch_schedules
from hpc.batch.submit import dated
from hpc.batch.worker import pause_rules
from hpc.errors import BatchError, HpcServeError
from hpc.processes import own_python, programs
from hpc.state import directory, lock

if TYPE_CHECKING:
    from hpc.config import Site

BUSY = frozenset({"QUEUED", "RUNNING", "PAUSING"})


def tick(root: Path, schedule_id: str, site: Site) -> str:
    """Start the due run of a schedule, unless the previous run is still going on.

    Args:
        root: state directory.
        schedule_id: id of the schedule.
        site: names the container program and templates.

    Returns:
        The result and its text; the result is "submitted", "resumed", "skipped" or "failed".

    Raises:
        BatchError: the schedule does not exist.
    """
    found = batch_schedules.load(root, schedule_id)
    # Two ticks at once would both find no running batch, and both submit one.
    with lock.exclusive(batch_schedules.folder_of(root, schedule_id) / "tick"):
        try:
            result, text, batch = _run(root, found, site)
        except HpcServeError as error:
            result, text, batch = "failed", str(error), None
        batch_schedules.record(root, schedule_id, result, text, batch)
    return f"{result}: {text}"


def _run(root: Path, found: batch_schedules.Schedule, site: Site) -> tuple[str, str, str | None]:
    before = _before(root, found.id)
    if before is not None and before.state in BUSY:
        return "skipped", f"batch {before.spec.id} still runs", before.spec.id
    if before is not None and before.state == "PAUSED" and _late(root, before):
        batch_control.resume(root, before.spec.id, workers=None, cluster=None, site=site)
        return "resumed", f"batch {before.spec.id} goes on", before.spec.id
    batch = _submit(root, found)
    return "submitted", f"batch {batch}", batch


def _before(root: Path, schedule_id: str) -> batch_control.BatchStatus | None:
    """Return the most recent run's batch, or None."""
    for run in reversed(batch_schedules.runs(root, schedule_id)):
        if run["batch"] is not None:
            try:
                return batch_control.look(root, run["batch"])
            except BatchError:
                return None  # somebody removed it
    return None


def _late(root: Path, before: batch_control.BatchStatus) -> bool:
    return pause_rules.is_late(directory.batch_dir(root, before.spec.id))


def _submit(root: Path, found: batch_schedules.Schedule) -> str:
    """Submit as the user would, through the command line, and return the batch's id."""
    words = [dated(word) for word in found.words]
    done = programs.run(
        own_python.argv("hpc", "batch", "submit", *words, "--json", f"--home={root}"),
        timeout_s=None,
        env=own_python.environment({**os.environ, **found.env}),
        cwd=Path(found.cwd),
        check=False,
        umask=found.umask,
    )
    if done.returncode != 0:
        told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = next((one for one in told if one.startswith("hpc-serve: ")), " ".join(told[-1:]))
        raise BatchError(last.removeprefix("hpc-serve: ") or f"exit status {done.returncode}")
    return str(json.loads(done.stdout)["id"])
