"""Tables out of measurements: medians over rounds, ratios within a round."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Rounds = Mapping[str, Mapping[str, list[dict[str, Any]]]]

DIRECT = "direct"
WINDOWS = ("unary", "before headers", "in prefill", "mid-stream")


def values(perf: Rounds, cell: str, name: str, *path: str) -> list[float | None]:
    """Return one number of each round."""
    found: list[float | None] = []
    for one in perf.get(cell, {}).get(name, []):
        at: Any = one
        for key in path:
            at = (at or {}).get(key)
        found.append(at)
    return found


def median(numbers: list[float | None]) -> float | None:
    """Return the median of what is there."""
    known = [one for one in numbers if one is not None]
    return statistics.median(known) if known else None


def paired(
    left: list[float | None], right: list[float | None], join: Callable[[float, float], float]
) -> float | None:
    """Return the median of something made of two numbers of one round."""
    pairs = zip(left, right, strict=False)
    return median([join(a, b) for a, b in pairs if a is not None and b is not None])


def shown(number: float | None, digits: int = 0) -> str:
    """Return a number as text."""
    return "-" if number is None else f"{number:.{digits}f}"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def names(found: Mapping[str, Any]) -> list[str]:
    """Return the gateways in the order of their visits."""
    return list(dict.fromkeys(name for row in found.values() for name in row))


class Costs:
    """The numbers of the perf battery, asked by cell and gateway."""

    def __init__(self, perf: Rounds) -> None:
        self._perf = perf

    def of(self, cell: str, name: str, *path: str) -> float | None:
        """Return a median."""
        return median(values(self._perf, cell, name, *path))

    def added(self, cell: str, name: str, *path: str) -> float | None:
        """Return the median of gateway minus direct."""
        mine = values(self._perf, cell, name, *path)
        return paired(mine, values(self._perf, cell, DIRECT, *path), lambda a, b: a - b)

    def both(self, cell: str, name: str, kind: str) -> str:
        """Return p50 and p99 of what was added."""
        found = (self.added(cell, name, kind, point) for point in ("p50", "p99"))
        return " / ".join(shown(one) for one in found)

    def ratio(self, cell: str, name: str, base: str) -> float | None:
        """Return the CPU of one gateway against another's in the same round."""
        mine = values(self._perf, cell, name, "cpu_us")
        return paired(mine, values(self._perf, cell, base, "cpu_us"), lambda a, b: a / b)

    def bad(self, name: str) -> int:
        """Return how many answers were not what they should be."""
        counted = ("errors", "non200", "short_streams")
        rows = [one for cell in self._perf.values() for one in cell.get(name, [])]
        return sum(one.get(key) or 0 for one in rows for key in counted)


def unary(costs: Costs, known: list[str]) -> str:
    """Return the table of whole answers."""
    rows = []
    for name in known:
        cpu = costs.of("u64", name, "cpu_us")
        rows.append(
            [
                name,
                costs.both("u1", name, "lat_us"),
                *(shown(costs.of(cell, name, "rps")) for cell in ("u1", "u16", "u64")),
                shown(cpu, 1),
                shown(1e6 / cpu if cpu else None),
                shown(costs.added("L1", name, "lat_us", "p50")),
                shown(costs.of("L16", name, "cpu_us"), 1),
                str(costs.bad(name)),
            ]
        )
    head = (
        *("gateway", "added p50 / p99 us, 1 client", "req/s, 1 client", "16", "64"),
        *("CPU us per request, 64 clients", "req/s per core", "64 KB: added p50 us, 1 client"),
        *("CPU us, 16 clients", "bad answers"),
    )
    return table(head, rows)


def streams(costs: Costs, known: list[str]) -> str:
    """Return the table of streams."""
    rows = [
        [
            name,
            costs.both("t1", name, "ttft_us"),
            costs.both("s64", name, "ttft_us"),
            *(costs.both(cell, name, "delay_us") for cell in ("s1", "s64", "s256")),
            *(shown(costs.of(cell, name, "cpu_us"), 1) for cell in ("s64", "s256")),
            shown(costs.of("burst16", name, "fps")),
            shown(costs.of("burst16", name, "cpu_us"), 2),
        ]
        for name in known
    ]
    head = (
        *("gateway", "added TTFT p50 / p99 us, 1 stream", "64"),
        *("added us per event, 1 stream", "64", "256"),
        *("CPU us per event, 64 streams", "256", "burst: events/s", "CPU us per event"),
    )
    return table(head, rows)


def ratios(costs: Costs, known: list[str], base: str) -> str:
    """Return the table of CPU against one gateway's, in the same round."""
    cells = ("u16", "u64", "L16", "s64", "s256", "burst16")
    rows = [[n, *(shown(costs.ratio(c, n, base), 2) for c in cells)] for n in known if n != DIRECT]
    return table((f"CPU, as a multiple of {base}'s", *cells), rows)


def conduct(found: Mapping[str, Any]) -> str:
    """Return the table of the other batteries."""
    parts = ("startup", "idle", "check", "leave", "mem", "karace")
    known = names({part: found[part] for part in parts if part in found})
    head = (
        *("gateway", "start s", "RSS MB at start / after load", "idle CPU %", "same bytes"),
        *("ms until the engine knows: unary, before headers, in prefill, mid-stream",),
        *("KiB per stream", "MB for 4 stalled readers", "kept connection closed: bad"),
    )
    return table(head, [_behaved(found, name) for name in known if name != DIRECT])


def _behaved(found: Mapping[str, Any], name: str) -> list[str]:
    def part(of: str) -> Any:
        return found.get(of, {}).get(name, {})

    left, race = part("leave"), part("karace")
    memory = [found.get(when, {}).get(name) for when in ("mem_start", "mem_after")]
    noticed = [_noticed(left[window]) for window in WINDOWS if window in left]
    same = [str(part("check").get(kind, {}).get("same", "-")) for kind in ("unary", "sse")]
    return [
        name,
        shown(median([*part("startup")]), 2),
        " / ".join(shown(one) for one in memory),
        shown(part("idle") if part("idle") != {} else None, 2),
        ", ".join(same),
        ", ".join(noticed) or "-",
        shown(part("mem").get("kib_per_stream"), 1),
        shown(part("mem").get("stalled_mb"), 1),
        _raced(race) if race else "-",
    ]


def _noticed(window: Mapping[str, Any]) -> str:
    if window["noticed"] < window["of"]:
        return f"never ({window['of'] - window['noticed']} of {window['of']})"
    return shown(window["ms"], 1)


def _raced(race: Mapping[str, Any]) -> str:
    timed, forced = race["timed"], race["forced"]
    if "error" in timed or "error" in forced:
        return "failed"
    bad = forced["errors"] + forced["non200"]
    of = timed["ok"] + timed["bad"]
    return f"{timed['bad']} of {of} timed, {bad} of {forced['raced']} forced"


def report(found: Mapping[str, Any], base: str) -> str:
    """Return everything as text."""
    parts = []
    if found.get("perf"):
        costs, known = Costs(found["perf"]), names(found["perf"])
        parts += [unary(costs, known), streams(costs, known), ratios(costs, known, base)]
    return "\n\n".join(["", *parts, conduct(found)])
