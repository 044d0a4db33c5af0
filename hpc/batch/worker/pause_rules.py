"""The automatic pause of a batch, and the user's command after the last answer."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.batch import report as batch_report
from hpc.batch.folder import BatchFolder
from hpc.errors import CommandError, StateError
from hpc.processes import own_python, programs
from hpc.state import files, private

if TYPE_CHECKING:
    from hpc.batch.model import BatchSpec
    from hpc.batch.worker.missing_models import MissingModels

log = logging.getLogger(__name__)

DEADLINE, CLAIMED, RESULT, WHY = "deadline", "on_done.begun", "on_done.json", "why"
COMMAND_S = 3600.0


def begin(folder: Path, spec: BatchSpec) -> None:
    """Start the deadline of a batch with the first worker of a run."""
    if spec.max_hours is not None:
        # "x" lets one of several workers that start together set the deadline.
        with contextlib.suppress(FileExistsError), (folder / DEADLINE).open("x") as file:
            file.write(f"{time.time() + spec.max_hours * 3600}\n")


def pause_when_late(folder: Path, spec: BatchSpec) -> None:
    """Pause the batch once its hours are over."""
    if spec.max_hours is not None and is_late(folder):
        _pause(folder, f"its {spec.max_hours:g} hours are over")


def pause_when_away(folder: Path, spec: BatchSpec, away: MissingModels) -> None:
    """Pause the batch once a model has been missing for too long."""
    model, away_s = away.longest() or ("", 0.0)
    if away_s > spec.model_patience_s:
        minutes = round(away_s / 60)
        _pause(folder, f"the gateway has had no model {model!r} for {minutes} min")


def why(folder: Path) -> str | None:
    """Return the reason of an automatic pause; None for a user's pause or no pause."""
    return (files.read_text(folder / WHY) or "").strip() or None


def _pause(folder: Path, reason: str) -> None:
    if not BatchFolder(folder).order():
        # The reason first: a reader of the pause may ask for the reason at once.
        with contextlib.suppress(StateError):
            files.write_text(folder / WHY, reason + "\n")
            files.write_text(BatchFolder(folder).control, "pause")


def is_late(folder: Path) -> bool:
    """Return whether the hours of a batch are over."""
    text = files.read_text(folder / DEADLINE) or ""
    # Without its line break the number may be half written by another worker.
    return text.endswith("\n") and time.time() >= float(text)


def forget(folder: Path) -> None:
    """Reset the deadline, the pause reason and the record of the user's command."""
    for name in (DEADLINE, CLAIMED, RESULT, WHY):
        (folder / name).unlink(missing_ok=True)


def run_on_done(folder: Path, spec: BatchSpec) -> None:
    """Run the user's command in a single worker; a failure is recorded and harms nothing."""
    if spec.on_done is None or not _claim(folder):
        return
    env = own_python.for_others({**os.environ, **_variables(folder, spec)})
    log.info("running the command for the end of the batch")
    try:
        result = programs.run(
            ["/bin/sh", "-c", spec.on_done],
            timeout_s=COMMAND_S,
            env=env,
            cwd=Path(spec.output).parent,
            check=False,
            umask=private.user_umask(),
        )
        said = {"status": result.returncode, "output": (result.stdout + result.stderr)[-2000:]}
    except CommandError as error:
        said = {"status": None, "output": str(error)}
    log.info("it ended: %s", said)
    with contextlib.suppress(StateError):
        files.write_text(folder / RESULT, json.dumps(said | {"ended_at": time.time()}) + "\n")


def on_done(folder: Path) -> dict[str, Any] | None:
    """Return the result of the user's command, or None before its end."""
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(files.read_text(folder / RESULT) or "")
        return found
    return None


def _claim(folder: Path) -> bool:
    # Creating a file succeeds for one of several workers, so the command runs once.
    try:
        (folder / CLAIMED).touch(mode=0o600, exist_ok=False)
    except OSError:
        return False
    return True


def _variables(folder: Path, spec: BatchSpec) -> dict[str, str]:
    made = batch_report.report(folder) or {}
    counts = {name.upper(): str(made.get(name, "")) for name in ("requests", "good", "failed")}
    named = {f"HPC_SERVE_BATCH_{name}": value for name, value in counts.items()}
    return {
        "HPC_SERVE_BATCH": spec.id,
        "HPC_SERVE_BATCH_OUTPUT": spec.output,
        "HPC_SERVE_BATCH_STATE": "DONE" if made else "",
        **named,
    }
