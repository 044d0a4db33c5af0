"""What requests and events cost: every gateway in turn, round after round."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scripts.bench import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.gateways import Engine, Gateway


@dataclass(frozen=True)
class Cell:
    """One load.

    Attributes:
        name: u unary, L unary with prompts of 64 KB, s streams; then how many clients.
        conduct: how the engine answers.
        words: what the load client is told, but how long.
        unit: what is counted.
    """

    name: str
    conduct: str
    words: tuple[str, ...]
    unit: str


def _unary(name: str, clients: int, *more: str, delay_ms: int = 0) -> Cell:
    words = ("unary", "--conc", str(clients), *more)
    return Cell(name, f"mode=unary&delay_ms={delay_ms}", words, "n")


def _streams(name: str, clients: int, frames: int, timing: str, over_s: float = 0.0) -> Cell:
    words = ("sse", "--conc", str(clients), "--frames", str(frames), "--spread", str(over_s))
    return Cell(name, f"mode=sse&frames={frames}&{timing}", words, "frames")


CELLS = (
    _unary("u1", 1),
    _unary("u16", 16),
    _unary("u64", 64),
    _unary("u16d20", 16, delay_ms=20),
    _unary("u64d20", 64, delay_ms=20),
    _unary("L1", 1, "--body", "large"),
    _unary("L16", 16, "--body", "large"),
    _streams("t1", 1, 4, "interval_ms=1&first_ms=4"),
    _streams("s1", 1, 64, "interval_ms=10"),
    _streams("s64", 64, 64, "interval_ms=10", 0.3),
    _streams("s256", 256, 64, "interval_ms=20", 0.6),
    _streams("burst16", 16, 1000, "interval_ms=0"),
)


@dataclass(frozen=True)
class Patience:
    """How a cell is measured.

    Attributes:
        seconds: how long.
        quiet: cores that others may use meanwhile.
        redo: how often it is repeated where they used more.
    """

    seconds: float
    quiet: float
    redo: int


def measure(gateway: Gateway, cell: Cell, engine: Engine, patience: Patience) -> dict[str, Any]:
    """Return what one load came to, repeated while the rest of the machine is not quiet."""
    for attempt in range(1 + patience.redo):
        found = _once(gateway, cell, engine, patience.seconds)
        if found["foreign"] <= patience.quiet or attempt == patience.redo:
            break
        time.sleep(2)
    print(_line(gateway.name, cell, found), flush=True)
    return found


def _once(gateway: Gateway, cell: Cell, engine: Engine, seconds: float) -> dict[str, Any]:
    engine.set(cell.conduct)
    begun = time.monotonic()
    before = gateway.cpu_s(), engine.cpu_s(), processes.machine_s()
    found = gateway.load(*cell.words, "--secs", str(seconds))
    after = gateway.cpu_s(), engine.cpu_s(), processes.machine_s()
    wall = time.monotonic() - begun
    used, engine_s, machine_s = (late - early for late, early in zip(after, before, strict=True))
    units = found.get(cell.unit) or 0
    found["cpu_us"] = round(used / units * 1e6, 2) if units and gateway.runs else None
    found["busy"] = round(used / (found.get("secs") or seconds), 3)
    found["foreign"] = round(max(0.0, machine_s - used - engine_s) / wall, 3)
    engine.settle()
    return found


def _line(name: str, cell: Cell, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{cell.name:<8} {name:<18} failed: {found['error'].strip().splitlines()[-1]}"
    took = found.get("lat_us") or found["delay_us"]
    bad = found["errors"] + found["non200"] + found.get("short_streams", 0)
    return (
        f"{cell.name:<8} {name:<18} {found.get('rps', found.get('fps')):>9}/s  "
        f"p50 {took['p50']:>9} p99 {took['p99']:>9} us  CPU {found['cpu_us'] or 0:>8} us each  "
        f"core {found['busy']:.0%}  others {found['foreign']:.2f} cores  bad {bad}"
        if took["p50"] is not None
        else f"{cell.name:<8} {name:<18} nothing came; bad {bad}"
    )


def perf(
    gateways: Sequence[Gateway],
    engine: Engine,
    cells: Sequence[Cell],
    rounds: int,
    patience: Patience,
) -> dict[str, Any]:
    """Return all measurements, by cell and gateway, and the memory held after them."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for _ in range(rounds):
        for cell in cells:
            for gateway in gateways:
                row = found.setdefault(cell.name, {}).setdefault(gateway.name, [])
                row.append(measure(gateway, cell, engine, patience))
    return {"perf": found, "mem_after": {one.name: one.rss_mb() for one in gateways if one.runs}}
