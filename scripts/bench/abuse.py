"""The measurement of abusive clients: a probe beside each attack."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.model import ServiceSpec
from hpc.state import directory
from scripts.bench import abuse_attacks, processes
from scripts.bench.gateways import POLL_S, PROJECT, Engine, Place, free_port
from scripts.bench.replica import sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 30.0
ALONE_S, BESIDE_S = 3.0, 6.0
MOST_MS, MOST_MB = 50.0, 64.0
REDACTED = ("redact",)
TOKENS = 100
MODELS = (("probe", 1, None, 0), ("m", 2, None, 1), ("one", 1, 1, 1))
"""Name, replicas, slots, and the engine: the first is the probe's, the second the attack's."""


@dataclass(frozen=True)
class Outcome:
    """The effect of one attack.

    Attributes:
        alone: milliseconds of the probe's requests without the attack.
        beside: milliseconds during the attack.
        refused: share of the probe's requests that failed during the attack.
        grown_mb: growth of the gateway's memory.
        alive: whether the gateway was still there afterwards.
    """

    alone: list[float]
    beside: list[float]
    refused: float
    grown_mb: float
    alive: bool

    def added_ms(self) -> tuple[float, float, float]:
        """Return the added median, 95th percentile and maximum."""
        shares = (0.5, 0.95, 1.0)
        median, most, all_ = (at(self.beside, one) - at(self.alone, one) for one in shares)
        return median, most, all_


def main(told: str | None) -> int:
    """Measure, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gateway", metavar="PATH", type=Path, default=PROJECT)
    parser.add_argument("--only", metavar="NAMES", help="attacks, separated by commas")
    parser.add_argument("--out", metavar="FILE", type=Path, help="all figures as JSON")
    parser.add_argument("--check", action="store_true", help="fail beyond the bounds")
    parser.add_argument("--seconds", type=float, default=BESIDE_S, help="of each attack")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(abuse_attacks.ATTACKS)
    unknown = sorted(set(names) - set(abuse_attacks.ATTACKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(abuse_attacks.ATTACKS)}")
    found = {}
    heads = "".join(f"{one:>9}" for one in ("p50 +", "p95 +", "max +", "refused"))
    print(f"{'attack':22}{'alone p50':>10}{heads}{'MB +':>8}")
    for name in names:
        found[name] = measure(name, options.gateway.resolve(), options.seconds)
        print(line(name, found[name]), flush=True)
    if options.out:
        options.out.write_text(json.dumps({n: asdict(one) for n, one in found.items()}))
    return int(options.check and any(map(too_much, found.values())))


def at(values: list[float], share: float) -> float:
    """Return the value below which a share of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def line(name: str, one: Outcome) -> str:
    """Return the row of an attack."""
    if not one.beside:
        return f"{name:22}  no request of the probe was answered"
    median, most, all_ = one.added_ms()
    alone = statistics.median(one.alone)
    end = "" if one.alive else "  the gateway is gone"
    return (
        f"{name:22}{alone:8.1f}ms{median:7.1f}ms{most:7.0f}ms{all_:7.0f}ms{one.refused:8.0%}"
        f"{one.grown_mb:8.0f}{end}"
    )


def too_much(one: Outcome) -> bool:
    """Return whether an attack has more effect than allowed."""
    if not one.beside or not one.alive or one.refused:
        return True
    return one.added_ms()[1] > MOST_MS or one.grown_mb > MOST_MB


def measure(name: str, gateway: Path, seconds: float) -> Outcome:
    """Run one attack against a gateway of its own."""
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder, contextlib.ExitStack() as stack:
        places = [Place(Path(folder), 0, 1, free_port()) for _ in range(2)]
        for place in places:
            engine = stack.enter_context(contextlib.closing(Engine(place).wait()))
            engine.set(abuse_attacks.CONDUCT.get(name, "delay_ms=1"))
        ports = [place.mock for place in places]
        facts = prepare(Path(folder), redact=name.startswith(REDACTED))
        for model, replicas, slots, at in MODELS:
            for number in range(replicas):
                where = (model, number, ports[at], slots)
                stack.enter_context(serving(Path(folder), gateway, *where))
        process = stack.enter_context(running(Path(folder), gateway, facts))
        alone, _ = probe(name, facts, ALONE_S)
        before = memory_mb(process.pid, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the highest size so far
        with attack(name, facts, Path(folder)):
            time.sleep(0.3)
            beside, refused = probe(name, facts, seconds)
        alive = process.poll() is None
        grown = memory_mb(process.pid, "VmHWM") - before if alive else float("nan")
        return Outcome(alone, beside, refused, grown, alive)


def prepare(folder: Path, *, redact: bool) -> dict[str, Any]:
    """Make a state directory with keys and services; returns what clients must know.

    Args:
        folder: where it goes.
        redact: whether the gateway redacts.
    """
    home = directory.home(str(folder / "home"))
    limits = {
        "probe": None,
        "open": None,
        "tiny": KeyLimits(rpm=1, max_prompt_tokens=TOKENS),
        "few": KeyLimits(rpm=1),
    }
    keys = {
        name: key_store.add(directory.keys_path(home), name, limits=each)[0]
        for name, each in limits.items()
    }
    for name, replicas, _, _ in MODELS:
        spec = ServiceSpec(name=name, engine="llamacpp", server="llama-server", model="/m.gguf")
        directory.save_spec(home, replace(spec, replicas=replicas))
    policy: dict[str, Any] = {"aliases": {"alias": "m"}, "cache": {}}
    if redact:
        policy["redact"] = {"kinds": ["email", "iban", "card", "phone", "ip", "key"]}
    (folder / "models.yaml").write_text(json.dumps({"version": 1, "models": [], "gateway": policy}))
    return {"port": free_port(), "keys": keys, "home": str(home)}


@contextlib.contextmanager
def serving(
    folder: Path, gateway: Path, name: str, number: int, port: int, slots: int | None
) -> Iterator[None]:
    """Run a replica's sidecar beside engine and gateway, recorded as ready for long enough."""
    process, record = sidecar(folder, port, name, number, project=gateway)
    os.sched_setaffinity(process.pid, {0})
    until = time.time() + directory.STALE_S - 5
    directory.save_endpoint(
        directory.home(str(folder / "home")), replace(record, beat_at=until, slots=slots)
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def running(
    folder: Path, gateway: Path, facts: dict[str, Any]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the gateway of a checkout."""
    program = [sys.executable, "-m", "gateway_lite", "run", "--home", facts["home"]]
    argv = [*program, "--models", str(folder / "models.yaml"), "--port", str(facts["port"])]
    env = {"PYTHONPATH": str(gateway), "XDG_CONFIG_HOME": "/nonexistent"}
    with (folder / "gateway.log").open("wb") as log:
        process = processes.spawn(argv, log, gateway, core=0, env=env)
    try:
        end = time.monotonic() + START_S
        while abuse_attacks.ask(facts, "m") != 200:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit((folder / "gateway.log").read_text()[-2000:])
            time.sleep(POLL_S)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def attack(name: str, facts: dict[str, Any], folder: Path) -> Iterator[None]:
    """Run an attack in a process of its own."""
    argv = [sys.executable, "-m", "scripts.bench.abuse_attacks", name, json.dumps(facts)]
    with (folder / "attack.log").open("wb") as log:
        process = processes.spawn(["nice", "-n", "19", *argv], log, PROJECT, core=1, env={})
    try:
        yield
    finally:
        processes.stop(process)
        told = (folder / "attack.log").read_text()
        if "Traceback" in told:
            print(told[-1500:], file=sys.stderr)


def probe(name: str, facts: dict[str, Any], seconds: float) -> tuple[list[float], float]:
    """Return the milliseconds of a probe's requests, and the share of refused requests."""
    argv = [sys.executable, "-m", "scripts.bench.abuse_attacks", "probe", json.dumps(facts)]
    model = "one" if name in abuse_attacks.AT_SLOTS else "probe"
    done = subprocess.run(
        [*argv, model, str(seconds)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    told = json.loads(done.stdout)
    return told["ms"], told["refused"]


def memory_mb(pid: int, field: str) -> float:
    """Return a size of a process in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
