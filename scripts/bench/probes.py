"""Single questions about conduct: same bytes, who notices a client that left, who loses a race."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import socket
import time
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

from scripts.bench.answers import FRAME_TIME
from scripts.bench.wire import spread

if TYPE_CHECKING:
    from scripts.bench.wire import Target

FRAME = re.compile(FRAME_TIME)
LANES = 48
CYCLES = 3
GAP_S = 5.0
JITTER_S = 0.003
FAILURES = (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, asyncio.LimitOverrunError)


def _control(target: Target, query: str) -> None:
    with urllib.request.urlopen(f"{target.mock}/_ctl?{query}", timeout=5) as answer:  # nosec B310
        answer.read()


def check(target: Target) -> dict[str, Any]:
    """Return a digest of one unary answer and of one stream."""
    found: dict[str, Any] = {}
    for mode in ("unary", "sse"):
        _control(target, f"mode={mode}&frames=200&interval_ms=0&det=1")
        head, body = talk(target, stream=mode == "sse")
        lines = head.split(b"\r\n")
        found[mode] = {
            "status": lines[0].decode("latin1"),
            "bytes": len(body),
            "sha": hashlib.sha256(body).hexdigest()[:16],
            "headers": sorted(line.split(b":")[0].decode("latin1").lower() for line in lines[1:]),
            "frames": len(FRAME.findall(body)),
            "done": body.count(b"data: [DONE]\n\n"),
        }
    return found


def talk(target: Target, *, stream: bool) -> tuple[bytes, bytes]:
    """Return head and body of one answer."""
    with socket.create_connection((target.host, target.port), timeout=30) as sock:
        sock.sendall(target.request(stream=stream))
        with sock.makefile("rb") as file:
            head = b"".join(iter(file.readline, b"\r\n"))
            _, told, rest = head.lower().partition(b"content-length:")
            if told:
                return head.strip(), file.read(int(rest.split(b"\r\n", 1)[0]))
            body = b""
            while size := int(file.readline().split(b";")[0] or b"0", 16):
                body += file.read(size)
                file.readline()
            return head.strip(), body


def leave(target: Target, after_ms: float, *, stream: bool) -> dict[str, Any]:
    """Send a request, read for a while, close; return when."""
    sock = socket.create_connection((target.host, target.port), timeout=10)
    sock.sendall(target.request(stream=stream))
    got = b""
    end = time.monotonic() + after_ms / 1000
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(65536)
        except TimeoutError:
            break
        if not data:
            break
        got += data
    closed = time.monotonic_ns()
    sock.close()
    time.sleep(0.1)  # the engine needs the core more than the end of this process does
    return {"closed_ns": closed, "frames": len(FRAME.findall(got))}


async def race(target: Target) -> dict[str, Any]:
    """Ask just as the engine closes its idle connections, which a gateway must not pass on."""
    codes: Counter[str] = Counter()
    latency: list[int] = []
    idle, *_ = await asyncio.gather(
        _idle_close(target), *(_lane(target, codes, latency) for _ in range(LANES))
    )
    good = codes.pop("200", 0)
    bad = sum(codes.values())
    spread_ = spread(latency)
    return {"ok": good, "bad": bad, "codes": codes, "client_idle_s": idle, "lat_us": spread_}


async def _lane(target: Target, codes: Counter[str], latency: list[int]) -> None:
    """Ask over a fresh connection each time, so that only the engine's can be the old one."""
    for cycle in range(CYCLES + 1):
        if cycle:
            await asyncio.sleep(GAP_S + random.uniform(-JITTER_S, JITTER_S) - 0.0005)
        begun = time.monotonic_ns()
        try:
            code = await _ask(target)
        except FAILURES as error:
            code = type(error).__name__
        if cycle:
            codes[code] += 1
            latency.append(time.monotonic_ns() - begun)


async def _ask(target: Target) -> str:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(target.request())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        _, told, rest = head.lower().partition(b"content-length:")
        if told:
            await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        else:
            await reader.readuntil(b"0\r\n\r\n")
        return head[9:12].decode()
    finally:
        writer.close()


async def _idle_close(target: Target) -> float | None:
    """Return after how many seconds an idle connection of a client is closed, if it is."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(target.request())
    last = time.monotonic()
    try:
        while await asyncio.wait_for(reader.read(65536), CYCLES * GAP_S):
            last = time.monotonic()
    except asyncio.TimeoutError:
        return None
    else:
        return round(time.monotonic() - last, 2)
    finally:
        writer.close()
