"""What the choice by prefix is worth, in a small run of scripts/bench_routing."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[4] / "scripts" / "bench_routing"


@pytest.fixture(scope="module")
def bench() -> Any:
    loader = importlib.machinery.SourceFileLoader("bench_routing", str(SCRIPT))
    spec = importlib.util.spec_from_loader("bench_routing", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_routing"] = module
    loader.exec_module(module)
    return module


def runs(bench: Any, *, chats: int, shared: bool) -> tuple[Any, Any]:
    """Return the outcomes of prefix and of round robin."""
    given = {"chats": chats, "turns": 2500, "seed": 3, "shared": shared}
    return bench.simulate("prefix", **given), bench.simulate("round_robin", **given)


def test_shared_prompts_gain_a_third_and_halve_the_wait(bench: Any) -> None:
    ours, theirs = runs(bench, chats=90, shared=True)
    assert ours.per_s / theirs.per_s >= 1.3
    assert ours.ttft_s / theirs.ttft_s <= 0.5
    assert ours.computed < theirs.computed


def test_prompts_with_nothing_in_common_lose_nothing(bench: Any) -> None:
    ours, theirs = runs(bench, chats=60, shared=False)
    assert ours.per_s / theirs.per_s >= 0.95
