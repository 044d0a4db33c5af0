"""How gateways behave: idle, at start, when clients leave or stop reading, when engines hang up."""

from __future__ import annotations

import socket
import statistics
import time
from typing import TYPE_CHECKING, Any

from scripts.bench.wire import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.bench.gateways import Engine, Gateway

Found = dict[str, Any]
STREAMS = 1000
STALLED = 4
FRAME_BYTES = 248
SOAK_REQUESTS = 1_000_000
SOAK_STREAMS = 10_000
AT_ONCE = 200
LEAVING = {
    "unary": ("mode=unary&delay_ms=3000", ()),
    "before headers": ("mode=sse&first_ms=3000&early=0", ("--stream",)),
    "in prefill": ("mode=sse&first_ms=3000&early=1", ("--stream",)),
    "mid-stream": ("mode=sse&frames=200&interval_ms=20", ("--stream",)),
}


def check(gateways: Sequence[Gateway], engine: Engine) -> Found:
    """Tell whether what passes a gateway is what the engine sent; the first is the measure."""
    del engine
    found = {one.name: one.load("check") for one in gateways}
    first = found[gateways[0].name]
    for told in found.values():
        for kind in first:
            if kind in told:
                told[kind]["same"] = told[kind]["sha"] == first[kind]["sha"]
    return found


def idle(gateways: Sequence[Gateway], engine: Engine, seconds: float = 10.0) -> Found:
    """Return the CPU that each uses with nothing to do, in percent of a core."""
    del engine
    running = [one for one in gateways if one.runs]
    before = [one.cpu_s() for one in running]
    time.sleep(seconds)
    used = [one.cpu_s() - early for one, early in zip(running, before, strict=True)]
    return {one.name: round(cpu / seconds * 100, 3) for one, cpu in zip(running, used, strict=True)}


def leave(gateways: Sequence[Gateway], engine: Engine, times: int = 3) -> Found:
    """Return after how many milliseconds the engine learns that a client has left."""
    return {
        one.name: {
            window: _left(one, engine, conduct, words, times)
            for window, (conduct, words) in LEAVING.items()
        }
        for one in gateways
    }


def _left(
    gateway: Gateway, engine: Engine, conduct: str, words: tuple[str, ...], times: int
) -> Found:
    took: list[float] = []
    for _ in range(times):
        engine.set(conduct)
        told = gateway.load("leave", "--after-ms", "300", *words)
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            seen = engine.stats()
            if seen["aborted"] or seen["finished"]:
                break
            time.sleep(0.05)
        if seen["aborted"] and "closed_ns" in told:
            took.append((seen["abort_ns"][0] - told["closed_ns"]) / 1e6)
    return {
        "of": times,
        "noticed": len(took),
        "ms": round(statistics.median(took), 2) if took else None,
        "ms_max": round(max(took), 2) if took else None,
    }


def mem(gateways: Sequence[Gateway], engine: Engine) -> Found:
    """Return the memory of an open stream, and of clients that stop reading a fast one."""
    return {one.name: _held(one, engine) for one in gateways if one.runs}


def _held(gateway: Gateway, engine: Engine) -> Found:
    engine.set("mode=sse&frames=1000&interval_ms=500")
    before = gateway.rss_mb()
    clients = _open_streams(gateway, STREAMS)
    time.sleep(2.5)
    during, reached = gateway.rss_mb(), engine.stats()["open"]
    _close(clients, 1.5)
    engine.set("mode=sse&frames=200000&interval_ms=0")
    calm = gateway.rss_mb()
    clients = _open_streams(gateway, STALLED)
    time.sleep(4)
    stalled, sent = gateway.rss_mb(), engine.stats()["frames"]
    _close(clients, 1.0)
    aborted = engine.stats()["aborted"]
    return {
        "kib_per_stream": round((during - before) * 1024 / STREAMS, 1),
        "reached_engine": reached,
        "stalled_mb": round(stalled - calm, 1),
        "stalled_taken_mb": round(sent * FRAME_BYTES / 1e6, 1),
        "stalled_aborted": aborted,
        "rss_mb": [before, during, calm, stalled],
    }


def _open_streams(gateway: Gateway, count: int) -> list[socket.socket]:
    target = Target(f"http://127.0.0.1:{gateway.port}/v1", gateway.headers)
    request = target.request(stream=True)
    found = []
    for _ in range(count):
        sock = socket.create_connection((target.host, target.port), timeout=10)
        sock.sendall(request)
        found.append(sock)
    return found


def _close(clients: list[socket.socket], wait_s: float) -> None:
    for sock in clients:
        sock.close()
    time.sleep(wait_s)


def soak(gateways: Sequence[Gateway], engine: Engine) -> Found:
    """Return the memory before and after very many requests, and very many cut streams."""
    return {one.name: _soaked(one, engine) for one in gateways if one.runs}


def _soaked(gateway: Gateway, engine: Engine) -> Found:
    engine.set("mode=unary")
    gateway.load("unary", "--conc", "64", "--secs", "2")
    levels, served = [gateway.rss_mb()], 0
    while served < SOAK_REQUESTS:
        told = gateway.load("unary", "--conc", "64", "--secs", "30")
        if not told.get("n"):
            return {"error": told.get("error", "no answers"), "rss_mb": levels}
        served += told["n"]
        levels.append(gateway.rss_mb())
    engine.set("mode=sse&frames=1000&interval_ms=100")
    for _ in range(SOAK_STREAMS // AT_ONCE):
        clients = _open_streams(gateway, AT_ONCE)
        time.sleep(0.2)
        _close(clients, 0.1)
    engine.settle()
    levels.append(gateway.rss_mb())
    aborted = engine.stats()["aborted"]
    return {"requests": served, "cut_streams": aborted, "rss_mb": levels}


def karace(gateways: Sequence[Gateway], engine: Engine) -> Found:
    """Return how often a client sees that the engine closed a connection it had kept."""
    found = {}
    for one in gateways:
        engine.set("mode=unary&ka=5")
        timed = one.load("karace")
        engine.set("mode=unary&ka=5&race=1")
        forced = one.load("unary", "--tool", "own", "--conc", "1", "--secs", "1")
        raced = engine.stats()["raced"]
        found[one.name] = {"timed": timed, "forced": {**forced, "raced": raced}}
    engine.set("mode=unary")
    return found


def startup(gateways: Sequence[Gateway], engine: Engine, times: int = 3) -> Found:
    """Return the seconds from start to the first good answer; starts every gateway anew."""
    engine.set("mode=unary")
    found: dict[str, list[float]] = {one.name: [] for one in gateways if one.runs}
    for _ in range(times):
        for one in gateways:
            if one.name in found:
                one.stop()
                time.sleep(0.2)
                found[one.name].append(round(one.start(), 3))
    return found
