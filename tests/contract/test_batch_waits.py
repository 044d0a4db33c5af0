"""A batch that waits: for an engine that says when to come back, and for what is in flight."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from hpc.batch import control as batch_control
from hpc.batch import report as batch_report
from hpc.batch import submit as batch_submit
from hpc.batch.folder import DOING
from hpc.batch.ledger import claims
from hpc.batch.ledger.filesystem import RealFileSystem
from hpc.batch.model import BatchTarget
from hpc.cli.batch.text import waits
from hpc.config import Site
from hpc.jobs import api as jobs
from hpc.state import directory
from tests.contract.test_batch import (
    Engine,
    engine,
    results,
    submitted,
    texts,
    wait,
    wanted,
    worker,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpc.batch.model import BatchSpec

__all__ = ["engine", "submitted"]
TRIES = 4
SPENT = {"x-should-retry": "false", "Retry-After": "1"}


def test_a_limit_uses_up_no_try_and_a_spent_budget_is_final(tmp_path: Path, engine: Engine) -> None:
    answer = engine.answer

    def limited(prompt: str) -> tuple[int, dict[str, str], bytes]:
        status, headers, data = answer(prompt)
        word, tries = prompt.partition(" ")[0], engine.asked[prompt]
        if word in ("limited", "loading") and tries <= TRIES:
            return (429 if word == "limited" else 503), {"Retry-After": "0"}, b"{}"
        return (429, SPENT, b"{}") if word == "spent" else (status, headers, data)

    engine.answer = limited  # type: ignore[method-assign]
    words = ["limited", "loading", "spent", "good"]
    asked = wanted(tmp_path, engine, words)
    folder = batch_submit._fresh(tmp_path)
    spec = batch_submit._prepare(folder, asked, None)
    object.__setattr__(spec, "retries", 1)
    assert asyncio.run(worker(folder, spec, "a").run(BatchTarget(engine.url)))
    batch_report.conclude(RealFileSystem(), folder, spec)

    assert texts(tmp_path) == ["LIMITED 0", "LOADING 1", None, "GOOD 3"]
    assert engine.asked == {"limited 0": 5, "loading 1": 5, "spent 2": 1, "good 3": 1}
    assert results(tmp_path)[2]["error"]["code"] == "429"


def test_a_batch_whose_model_is_gone_waits_pauses_with_a_reason_and_goes_on(
    tmp_path: Path, engine: Engine
) -> None:
    answer, gone = engine.answer, threading.Event()
    told = b'{"error": {"code": "model_not_found", "message": "the model does not exist"}}'
    engine.answer = lambda prompt: (404, {}, told) if gone.is_set() else answer(prompt)  # type: ignore[method-assign]
    engine.delay_s = 0.02
    asked = replace(wanted(tmp_path, engine, ["good"] * 600), model_patience_s=2.0, retries=0)
    spec = batch_submit.submit(tmp_path, asked, engine=None, cluster="local", site=Site())
    try:
        wait(lambda: batch_control.look(tmp_path, spec.id).done > 0)
        gone.set()
        wait(lambda: batch_control.look(tmp_path, spec.id).state == "PAUSED")
        seen = batch_control.look(tmp_path, spec.id)
        assert seen.why is not None
        assert "has had no model 'm'" in seen.why
        assert f"batch resume {spec.id}" in waits(seen)[0]
        assert seen.failed == 0
        gone.clear()
        assert (
            batch_control.resume(tmp_path, spec.id, workers=None, cluster="local", site=Site()) == 1
        )
        wait(lambda: batch_control.look(tmp_path, spec.id).state == "DONE")
    finally:
        jobs.cancel(batch_submit.handles(directory.batch_dir(tmp_path, spec.id)))

    assert texts(tmp_path) == [f"GOOD {n}" for n in range(600)]
    assert batch_control.look(tmp_path, spec.id).why is None


def test_a_worker_that_is_told_to_end_keeps_what_is_answered_and_gives_the_rest_back(
    tmp_path: Path, engine: Engine, submitted: Callable[..., BatchSpec]
) -> None:
    engine.delay_s = 1.0
    spec = submitted(["good"] * 200)
    folder = directory.batch_dir(tmp_path, spec.id)
    wait(lambda: engine.now > 8)
    jobs.drain(batch_submit.handles(folder))
    wait(lambda: not batch_control.here(folder))
    asked = len(engine.asked)
    left = list(claims.listed(RealFileSystem(), folder, DOING))
    batch_submit.submit_workers(tmp_path, spec, 1, "local", Site(), {})
    engine.delay_s = 0
    wait(lambda: batch_control.look(tmp_path, spec.id).state == "DONE")

    assert left == []
    assert 8 < asked < 200
    assert set(engine.asked.values()) == {1}
