"""The clients that make load: raw sockets, exact percentiles, one JSON object on stdout.

    python -m scripts.bench.load unary  URL --conc 16 --secs 3    closed loop
    python -m scripts.bench.load sse    URL --conc 64 --secs 3    streams, begun again and again
    python -m scripts.bench.load check  URL     one answer of each kind, with SHA-256 of its bytes
    python -m scripts.bench.load leave  URL --after-ms 300 [--stream]    send, wait, close
    python -m scripts.bench.load karace URL     requests as the engine closes idle connections

How long an event took is told by the time in it: engine and client share the machine's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvloop

from scripts.bench import probes, wrk
from scripts.bench.clients import StreamClient, UnaryClient
from scripts.bench.wire import Target, spread

if TYPE_CHECKING:
    from collections.abc import Callable

now_ns = time.monotonic_ns
TRIES = 50
RETRY_S = 0.1
TOO_MANY = 200


@dataclass
class Run:
    """One load: how much, for how long, and what came of it.

    Attributes:
        request: what every client sends.
        clients: how many at once.
        seconds: how long.
        grace_s: how long the last ones may take to end.
        expected: events that a whole stream has; 0 does not look.
    """

    target: Target
    make: Callable[[Run], asyncio.Protocol]
    request: bytes
    clients: int
    seconds: float
    grace_s: float = 20.0
    expected: int = 0
    latency: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    delay: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    errors: int = 0
    refused: int = 0
    streams: int = 0
    closed: int = 0
    stopped: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing new is begun."""
        return now_ns() >= self.deadline or self.errors + self.refused > TOO_MANY

    async def go(self, over_s: float = 0.0) -> None:
        """Run it; the clients begin one after the other, over some seconds."""
        loop = asyncio.get_running_loop()
        self.done = loop.create_future()
        self.deadline = now_ns() + int(self.seconds * 1e9)
        self.left = self.clients
        self._tasks: set[asyncio.Task[None]] = set()
        for _ in range(self.clients):
            self.begin()
            if over_s:
                await asyncio.sleep(over_s / self.clients)
        try:
            await asyncio.wait_for(self.done, self.seconds + self.grace_s)
        except asyncio.TimeoutError:
            self.stopped = True
            self.errors += self.left

    def begin(self) -> None:
        """Connect one client."""
        task = asyncio.get_running_loop().create_task(self._connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(TRIES):
            try:
                await loop.create_connection(
                    lambda: self.make(self), self.target.host, self.target.port
                )
            except OSError:
                self.errors += 1
                if self.over:
                    break
                await asyncio.sleep(RETRY_S)
            else:
                return
        self.gone()

    def lost(self) -> None:
        """Replace a client whose connection ended, or count it out."""
        if self.over or self.stopped:
            self.gone()
        else:
            self.begin()

    def gone(self) -> None:
        """Count a client out."""
        self.left -= 1
        if self.left <= 0 and not self.done.done():
            self.done.set_result(None)


def unary(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    """Ask for whole answers, each client one after the other."""
    if options.tool == "wrk" or (options.tool == "auto" and shutil.which("wrk")):
        return wrk.unary(target, options.conc, options.secs)
    run = Run(target, UnaryClient, target.request(), options.conc, options.secs)
    uvloop.run(run.go())
    return {
        "n": len(run.latency),
        "rps": round(len(run.latency) / options.secs, 1),
        "errors": run.errors,
        "non200": run.refused,
        "lat_us": spread(run.latency),
    }


def sse(target: Target, options: argparse.Namespace) -> dict[str, Any]:
    """Read streams."""
    request = target.request(stream=True)
    run = Run(target, StreamClient, request, options.conc, options.secs, expected=options.frames)
    begun = now_ns()
    uvloop.run(run.go(options.spread))
    took = (now_ns() - begun) / 1e9
    short = sum(1 for length in run.lengths if run.expected and length != run.expected)
    return {
        "streams": run.streams,
        "frames": len(run.delay),
        "fps": round(len(run.delay) / took, 1),
        "secs": round(took, 2),
        "errors": run.errors,
        "non200": run.refused,
        "short_streams": short,
        "ended_by_close": run.closed,
        "ttft_us": spread(run.first),
        "delay_us": spread(run.delay),
    }


COMMANDS: dict[str, Callable[[Target, argparse.Namespace], dict[str, Any]]] = {
    "unary": unary,
    "sse": sse,
    "check": lambda target, _: probes.check(target),
    "leave": lambda target, options: probes.leave(target, options.after_ms, stream=options.stream),
    "karace": lambda target, _: asyncio.run(probes.race(target)),
}


def main() -> None:
    """Make one load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("url")
    parser.add_argument("--conc", type=int, default=1)
    parser.add_argument("--secs", type=float, default=3)
    parser.add_argument("--spread", type=float, default=0.0)
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--body", choices=("small", "large"), default="small")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--tool", choices=("auto", "wrk", "own"), default="auto")
    parser.add_argument("--mock", default="")
    parser.add_argument("--after-ms", type=float, default=300)
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    target = Target(options.url, tuple(options.header), options.body, options.mock)
    print(json.dumps(COMMANDS[options.command](target, options)))


if __name__ == "__main__":
    main()
