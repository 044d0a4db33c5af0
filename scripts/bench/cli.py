"""The command line of the gateway benchmark."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench import conduct
from scripts.bench.gateways import Engine, Gateway, GatewayError, Place, free_port
from scripts.bench.install import install
from scripts.bench.ours import OURS
from scripts.bench.peers import PEERS
from scripts.bench.perf import CELLS, Patience, perf
from scripts.bench.report import DIRECT, report

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    Battery = Callable[[Sequence[Gateway], Engine], dict[str, Any]]

KNOWN = [*OURS, *PEERS]
BATTERIES: dict[str, Battery] = {
    "check": conduct.check,
    "idle": conduct.idle,
    "leave": conduct.leave,
    "mem": conduct.mem,
    "karace": conduct.karace,
    "startup": conduct.startup,
    "soak": conduct.soak,
}
USUAL = ("check", "idle", "perf", "leave", "mem", "karace", "startup")
ORDER = (*USUAL, "soak")


def main(about: str | None) -> None:
    """Install peers, measure, or print an earlier measurement."""
    options = _parser(about).parse_args()
    if options.install:
        complaints = install(options.install)
        raise SystemExit("\n".join(complaints) or None)
    if options.show:
        found = json.loads(options.show.read_text())
    else:
        with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
            found = run(options, Path(name))
    print(report(found, options.base))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Start everything, run the batteries, and return what was found."""
    several = not options.no_pin and (os.cpu_count() or 1) > 1
    place = Place(work, 0 if several else None, 1 if several else None, free_port())
    about = {"when": time.strftime("%F %T"), "kernel": platform.release(), "cpus": os.cpu_count()}
    found: dict[str, Any] = {**about, "options": {k: str(v) for k, v in vars(options).items()}}
    with ExitStack() as stack:
        engine = stack.enter_context(closing(Engine(place))).wait()
        gateways = [Gateway(DIRECT, None, place)]
        found["mem_start"], found["failed"] = {}, {}
        for name in options.only:
            gateway = _started(name, place, found)
            if gateway is not None:
                stack.callback(gateway.stop)
                gateways.append(gateway)
        for battery in options.batteries:
            print(f"-- {battery}", flush=True)
            if battery == "perf":
                found |= _perf(gateways, engine, options)
            else:
                found[battery] = BATTERIES[battery](gateways, engine)
                print(json.dumps(found[battery]), flush=True)
    return found


def _started(name: str, place: Place, found: dict[str, Any]) -> Gateway | None:
    peer = OURS[name](place.work) if name in OURS else PEERS[name]
    gateway = Gateway(name, peer, place)
    try:
        took = gateway.start()
    except GatewayError as error:
        found["failed"][name] = str(error)
        log = place.work / f"{name}.log"
        said = log.read_text(errors="replace")[-800:] if log.exists() else ""
        print(f"{name} does not start: {error}\n{said}", flush=True)
        return None
    found["mem_start"][name] = gateway.rss_mb()
    print(f"{name} started in {took:.2f} s, {gateway.rss_mb():.0f} MB", flush=True)
    return gateway


def _perf(
    gateways: Sequence[Gateway], engine: Engine, options: argparse.Namespace
) -> dict[str, Any]:
    cells = [cell for cell in CELLS if not options.cells or cell.name in options.cells]
    patience = Patience(options.secs, options.quiet, options.redo)
    return perf(gateways, engine, cells, options.rounds, patience)


def _parser(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_gateway", description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    cells = [cell.name for cell in CELLS]
    peers, known, batteries = (partial(_names, among) for among in (PEERS, KNOWN, ORDER))
    add = parser.add_argument
    add("--install", type=peers, metavar="A,B", help=f"of {','.join(PEERS)}")
    add("--only", type=known, default=["nginx", "vllm-router", "ours"], metavar="A,B")
    add("--base", default="nginx", metavar="NAME", help="what ratios are against [%(default)s]")
    add("--rounds", type=int, default=3, metavar="N", help="visits to each cell [%(default)s]")
    add("--secs", type=float, default=3, metavar="S", help="how long a cell lasts [%(default)s]")
    add("--cells", type=partial(_names, cells), metavar="A,B", help=f"of {','.join(cells)}")
    add("--batteries", type=batteries, default=[*USUAL], metavar="A,B", help=",".join(ORDER))
    add("--quiet", type=float, default=0.12, metavar="CORES", help="repeat a cell above that")
    add("--redo", type=int, default=2, metavar="N", help="at most so often [%(default)s]")
    add("--no-pin", action="store_true", help="let everything run on any core")
    add("--out", type=Path, metavar="FILE", help="write what was measured as JSON")
    add("--show", type=Path, metavar="FILE", help="print the tables of an earlier --out")
    return parser


def _names(among: Collection[str], text: str) -> list[str]:
    given = text.split(",")
    if unknown := [name for name in given if name not in among]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(among)}")
    return given
