"""When a batch pauses by itself, and what is run when all of it is answered."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc import process, state
from hpc.batch import outcome
from hpc.errors import CommandError, StateError

if TYPE_CHECKING:
    from hpc.batch.away import Away
    from hpc.batch.model import BatchSpec

log = logging.getLogger(__name__)

DEADLINE, CLAIMED, RESULT, WHY = "deadline", "on_done.begun", "on_done.json", "why"
COMMAND_S = 3600.0


def begin(folder: Path, spec: BatchSpec) -> None:
    """Start the hours of a batch with the first worker of a run."""
    if spec.max_hours is not None:
        with contextlib.suppress(FileExistsError), (folder / DEADLINE).open("x") as file:
            file.write(f"{time.time() + spec.max_hours * 3600}\n")


def pause_when_late(folder: Path, spec: BatchSpec) -> None:
    """Have the workers leave once the hours are over."""
    if spec.max_hours is not None and is_late(folder):
        _pause(folder, f"its {spec.max_hours:g} hours are over")


def pause_when_away(folder: Path, spec: BatchSpec, away: Away) -> None:
    """Have the workers leave once a model has been gone for too long."""
    model, away_s = away.longest() or ("", 0.0)
    if away_s > spec.model_patience_s:
        minutes = round(away_s / 60)
        _pause(folder, f"the gateway has had no model {model!r} for {minutes} min")


def why(folder: Path) -> str | None:
    """Return why a batch has paused by itself; None where somebody said so, or it has not."""
    return (state.read_text(folder / WHY) or "").strip() or None


def _pause(folder: Path, reason: str) -> None:
    if not state.read_text(folder / "control"):
        with contextlib.suppress(StateError):
            state.write_text(folder / WHY, reason + "\n")
            state.write_text(folder / "control", "pause")


def is_late(folder: Path) -> bool:
    """Tell whether the hours of a batch are over."""
    text = state.read_text(folder / DEADLINE) or ""
    return text.endswith("\n") and time.time() >= float(text)


def forget(folder: Path) -> None:
    """Give a batch its hours again, and let its end be told again."""
    for name in (DEADLINE, CLAIMED, RESULT, WHY):
        (folder / name).unlink(missing_ok=True)


def run_on_done(folder: Path, spec: BatchSpec) -> None:
    """Run the user's command, in one worker only; its failure is told and harms nothing."""
    if spec.on_done is None or not _claim(folder):
        return
    env = {**os.environ, **_variables(folder, spec)}
    log.info("running the command for the end of the batch")
    try:
        result = process.run(
            ["/bin/sh", "-c", spec.on_done],
            timeout_s=COMMAND_S,
            env=env,
            cwd=Path(spec.output).parent,
            check=False,
        )
        said = {"status": result.returncode, "output": (result.stdout + result.stderr)[-2000:]}
    except CommandError as error:
        said = {"status": None, "output": str(error)}
    log.info("it ended: %s", said)
    with contextlib.suppress(StateError):
        state.write_text(folder / RESULT, json.dumps(said | {"ended_at": time.time()}) + "\n")


def on_done(folder: Path) -> dict[str, Any] | None:
    """Return how the user's command ended; None before that."""
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(state.read_text(folder / RESULT) or "")
        return found
    return None


def _claim(folder: Path) -> bool:
    try:
        (folder / CLAIMED).touch(mode=0o600, exist_ok=False)
    except OSError:
        return False
    return True


def _variables(folder: Path, spec: BatchSpec) -> dict[str, str]:
    made = outcome.report(folder) or {}
    counts = {name.upper(): str(made.get(name, "")) for name in ("requests", "good", "failed")}
    named = {f"HPC_SERVE_BATCH_{name}": value for name, value in counts.items()}
    return {
        "HPC_SERVE_BATCH": spec.id,
        "HPC_SERVE_BATCH_OUTPUT": spec.output,
        "HPC_SERVE_BATCH_STATE": "DONE" if made else "",
        **named,
    }
