"""No test fails on a slow machine: limits of waits, and upper bounds on measured times."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
CLOCKS = frozenset({"monotonic", "monotonic_ns", "perf_counter", "time", "time_ns"})
LIMITS = ("timeout", "patience")
"""Beginnings of the names of arguments that limit a wait."""
WAITS = frozenset({"join", "settimeout", "until", "wait", "wait_for", "wait_left", "wait_until"})
"""Calls whose positional number limits a wait."""
SHORT = {
    ("contract/gateway/engines.py", "timeout_graceful_shutdown=1"): "the end of a fake engine",
    ("contract/gateway/test_hostile_load.py", "ended.wait(0.5)"): "the pace of a sender",
    ("contract/gateway/test_reload.py", "process.wait(1)"): "nothing may end the process",
    ("security/client_with_a_key/test_overload.py", "settimeout(1)"): "a moment for an answer",
    ("security/neighbour_on_login/test_reach.py", "began < 50"): "the drip alone takes 60 s",
    ("contract/gateway/wire.py", "settimeout(0.02)"): "the pace of a sender",
    ("contract/test_batch_waits.py", "model_patience_s=2.0"): "the tested limit",
    ("contract/test_node_server.py", ", 1)"): "the tested limit",
    ("contract/test_process.py", "timeout_s=limit_s"): "the tested limit",
    ("contract/test_service.py", "timeout_s=2, tell=lambda s: phases"): "the tested limit",
    ("contract/test_service.py", "timeout_s=1.5"): "the tested limit",
    ("contract/test_tunnel.py", "timeout_s=0.5"): "the tested limit",
    ("contract/test_tunnel_life.py", "asker.join(0.5)"): "nothing may answer",
    ("lab/test_lab.py", "timeout=1)"): "the tested limit",
    ("unit/hpc/keys/test_store.py", "patience_s=0.05"): "the tested limit",
}
"""Short limits by file and a part of their line, each with its reason: the wait has to fail."""


def faults(text: str) -> Iterator[tuple[ast.expr, str]]:
    """Yield place and kind of each bound that says how fast the machine is.

    Args:
        text: a module of tests.
    """
    module = ast.parse(text)
    known = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and any(_short(limit, known) for limit in _limits(node)):
            yield node, "a limit of a wait"
        elif isinstance(node, ast.BinOp) and _is_deadline(node) and _short(node.right, known):
            yield node, "a deadline"
        elif isinstance(node, ast.arguments):
            yield from ((one, "a default limit") for one in _defaults(node, known))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from ((one, "a bound on a time") for one in _bounds(node, known))


def _short(node: ast.expr, known: dict[str, ast.expr]) -> bool:
    """Return whether an expression is a number above 0 and below the patience."""
    node = known.get(node.id, node) if isinstance(node, ast.Name) else node
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return False
    return isinstance(node.value, int | float) and 0 < node.value < PATIENCE_S


def _limits(call: ast.Call) -> list[ast.expr]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = [one.value for one in call.keywords if one.arg and one.arg.startswith(LIMITS)]
    more = [one.value for one in call.keywords if one.arg and "_patience" in one.arg]
    return [*named, *more, *(call.args if name in WAITS else ())]


def _defaults(given: ast.arguments, known: dict[str, ast.expr]) -> Iterator[ast.expr]:
    every = [*given.posonlyargs, *given.args]
    last = zip(reversed(every), reversed(given.defaults), strict=False)
    for one, default in (*last, *zip(given.kwonlyargs, given.kw_defaults, strict=True)):
        if default and one.arg.startswith((*LIMITS, "seconds")) and _short(default, known):
            yield default


def _is_clock(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in CLOCKS
    )


def _is_deadline(node: ast.BinOp) -> bool:
    """Return whether a sum may end a wait; the time of day makes records, and counts not."""
    left = node.left
    if not isinstance(node.op, ast.Add) or not isinstance(left, ast.Call) or not _is_clock(left):
        return False
    return isinstance(left.func, ast.Attribute) and left.func.attr == "monotonic"


def _bounds(
    function: ast.FunctionDef | ast.AsyncFunctionDef, known: dict[str, ast.expr]
) -> Iterator[ast.expr]:
    """Yield the comparisons of a function that assert a measured time to be short."""
    measured = _measured(function)
    for node in (part for found in ast.walk(function) for part in _claims(found)):
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            less = isinstance(operator, ast.Lt | ast.LtE)
            small, large = (left, right) if less else (right, left)
            if isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) and _short(large, known):
                names = {one.id for one in ast.walk(small) if isinstance(one, ast.Name)}
                if names & measured or _is_difference(small):
                    yield node


def _claims(node: ast.AST) -> list[ast.Compare]:
    """Return the comparisons in an assertion or a condition that fails a test."""
    if not isinstance(node, ast.Assert):
        return []
    return [part for part in ast.walk(node.test) if isinstance(part, ast.Compare)]


def _is_difference(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.BinOp)
        and isinstance(part.op, ast.Sub)
        and any(_is_clock(one) for one in ast.walk(part))
        for part in ast.walk(node)
    )


def _measured(function: ast.AST) -> set[str]:
    """Return the names that a function gives to differences of times, and to what has them."""
    found: set[str] = {"took", "elapsed", "slowest"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _is_difference(node.value):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def test_no_bound_says_how_fast_the_machine_is() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(TESTS))
        for node, kind in faults(text):
            line = ast.get_source_segment(text, node) or ""
            if not any(name == file and part in line for file, part in SHORT):
                found.append(f"tests/{name}:{node.lineno}: {kind} below {PATIENCE_S:g} s: {line}")
    assert not found, "\n".join(found)


def test_each_exception_is_still_there() -> None:
    gone = [(file, part) for file, part in SHORT if part not in (TESTS / file).read_text("utf-8")]
    assert gone == []


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began < 5",
        "assert 0.3 <= time.monotonic() - began < 5",
        "took_s = time.perf_counter() - began; assert took_s <= 2.5",
        "assert 5 > time.time() - began",
        "assert took < SOON_S",
        "assert max(took) < 5",
        "wait_until(ready, 20)",
        "process.wait(10)",
        "thread.join(timeout=30)",
        "deadline = time.monotonic() + 20",
        "httpx.get(url, timeout=SOON_S)",
        "lifecycle.wait(root, timeout_s=30)",
    ],
)
def test_a_bound_is_found(line: str) -> None:
    assert list(faults(f"SOON_S = 10.0\ndef test_x():\n    {line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "assert time.monotonic() - began < 120",
        "assert time.monotonic() - began >= 1.5",
        "assert left_at - began < answered_at - began",
        "assert time.monotonic() < deadline",
        "assert len(calls) - before < 3",
        "wait_until(ready)",
        "process.wait(PATIENCE_S)",
        "wait('requests_deferred', 0)",
        "start = time.time() + 30",
    ],
)
def test_what_holds_on_any_machine_is_let_through(line: str) -> None:
    assert not list(faults(f"def test_x():\n    {line}\n"))


def test_a_default_limit_is_found() -> None:
    assert list(faults("def wait(holds, seconds: float = 10.0): ...\n"))
    assert not list(faults("def wait(holds, seconds: float = PATIENCE_S): ...\n"))


def test_examples_have_no_deadline() -> None:
    assert settings().deadline is None
