"""An engine that costs nothing: vLLM's answers on the wire, with behaviour set at run time.

It speaks as vLLM behind uvicorn does: lower-case headers, chunked, one event per chunk, a last
chunk of its own, idle connections closed after 5 s. Nothing of the behaviour is in the requests, so
that nothing has to survive a gateway:

    GET /_ctl?mode=sse&frames=64&interval_ms=10    set the fields of Conduct; the rest are defaults
    GET /_stats                                    counters, and when clients left
    GET /_reset                                    begin to count anew

Run as a program: `python -m scripts.bench.engine PORT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs

import httptools
import uvloop

from scripts.bench import answers

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 2048
SLACK_S = 0.0005


@dataclass(slots=True)
class Conduct:
    """How the engine answers.

    Attributes:
        mode: "unary", "sse", or "auto", which looks for `"stream":true`.
        delay_ms: before a unary answer.
        frames: events of a stream.
        interval_ms: between two of them.
        first_ms: before the first.
        early: 1 sends the head at once, as vLLM does; 0 with the first event, as llama.cpp does.
        det: 1 numbers the events, so that streams are equal; 0 puts their time of sending in.
        ka: seconds after which an idle connection is closed; 0 never.
        race: 1 answers a request on a connection that was used before by closing it.
    """

    mode: str = "auto"
    delay_ms: float = 0.0
    frames: int = 64
    interval_ms: float = 10.0
    first_ms: float = 0.0
    early: int = 1
    det: int = 0
    ka: float = 5.0
    race: int = 0


@dataclass(slots=True)
class Counters:
    """What happened since the last reset; times are CLOCK_MONOTONIC in nanoseconds."""

    started: int = 0
    finished: int = 0
    aborted: int = 0
    frames: int = 0
    bytes_in: int = 0
    connections: int = 0
    raced: int = 0
    idle_closed: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    abort_ns: list[int] = field(default_factory=list)


class Engine:
    """What the connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.conduct = Conduct()
        self.counters = Counters()
        self.open = 0

    def side(self, url: bytes) -> bytes:
        """Answer a path that is no work."""
        path, _, query = url.partition(b"?")
        if path == b"/_ctl":
            self.conduct = parse_conduct(query.decode())
            return answers.whole(json.dumps(asdict(self.conduct)).encode())
        if path == b"/_stats":
            told = {**asdict(self.counters), "open": self.open}
            return answers.whole(json.dumps(told).encode())
        if path == b"/_reset":
            self.counters = Counters()
            return answers.whole(b"{}")
        return answers.page(path)


def parse_conduct(query: str) -> Conduct:
    """Return the conduct that a query asks for."""
    kinds: dict[str, Callable[[str], object]] = {
        one.name: type(one.default) for one in fields(Conduct)
    }
    given = {name: kinds[name](values[-1]) for name, values in parse_qs(query).items()}
    return Conduct(**given)  # type: ignore[arg-type]


class Connection(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loop = engine.loop
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.body: list[bytes] = []
        self.stage = ""
        self.requests = 0
        self.left: int | None = None
        self.next_at = 0.0
        self.paused = self.dead = False
        self.timer: asyncio.Handle | None = None
        self.idle_timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self.transport = cast("asyncio.Transport", transport)
        self.engine.counters.connections += 1
        self.engine.open += 1
        self.rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client left, and when in an answer."""
        del exc
        self.dead = True
        self.engine.open -= 1
        for timer in (self.timer, self.idle_timer):
            if timer is not None:
                timer.cancel()
        if self.stage:
            counters = self.engine.counters
            counters.aborted += 1
            counters.stages[self.stage] = counters.stages.get(self.stage, 0) + 1
            counters.abort_ns.append(time.monotonic_ns())

    def pause_writing(self) -> None:
        """Make no more events, as nobody reads them."""
        self.paused = True

    def resume_writing(self) -> None:
        """Go on with them."""
        self.paused = False
        if self.stage and self.timer is None and self.left is not None:
            self.event()

    def rest(self) -> None:
        """Be idle, for as long as that is allowed."""
        self.stage = ""
        self.idle_since = self.loop.time()
        allowed = self.engine.conduct.ka
        if allowed and self.idle_timer is None:
            self.idle_timer = self.loop.call_at(self.idle_since + allowed, self.look)

    def look(self) -> None:
        """Close the connection where it was idle for long enough."""
        self.idle_timer = None
        if self.stage:
            return
        due = self.idle_since + self.engine.conduct.ka
        if self.loop.time() >= due - SLACK_S:
            self.engine.counters.idle_closed += 1
            self.transport.close()
        else:
            self.idle_timer = self.loop.call_at(due, self.look)

    def data_received(self, data: bytes) -> None:
        """Read a request."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        self.url += url

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        url, self.url = self.url, b""
        body, self.body = b"".join(self.body), []
        if not url.startswith(b"/v1/") or url.startswith(b"/v1/models"):
            self.transport.write(self.engine.side(url))
            self.rest()
            return
        self.requests += 1
        counters, conduct = self.engine.counters, self.engine.conduct
        counters.started += 1
        counters.bytes_in += len(body)
        if conduct.race and self.requests > 1:
            counters.raced += 1
            self.transport.close()
            return
        self.stage, self.left = "before headers", None
        if conduct.mode == "sse" or (conduct.mode == "auto" and answers.asks_stream(body)):
            self.stream(conduct)
        elif conduct.delay_ms:
            self.timer = self.loop.call_later(conduct.delay_ms / 1000, self.unary)
        else:
            self.unary()

    def unary(self) -> None:
        """Answer in one piece."""
        self.timer = None
        self.transport.write(answers.UNARY)
        self.done()

    def done(self) -> None:
        """Be ready for the next request."""
        self.engine.counters.finished += 1
        self.rest()

    def stream(self, conduct: Conduct) -> None:
        """Begin a stream."""
        self.left = conduct.frames
        if conduct.early:
            self.transport.write(answers.STREAM_HEAD)
            self.stage = "in prefill"
        if conduct.first_ms:
            self.timer = self.loop.call_later(conduct.first_ms / 1000, self.first)
        else:
            self.first()

    def first(self) -> None:
        """Send the first event, which has the role."""
        self.timer = None
        head = b"" if self.stage == "in prefill" else answers.STREAM_HEAD
        self.transport.write(head + answers.ROLE)
        self.stage = "mid-stream"
        self.next_at = self.loop.time()
        self.event()

    def event(self) -> None:
        """Send an event, or what ends the stream."""
        self.timer = None
        if self.dead or self.paused or self.left is None:
            return
        conduct = self.engine.conduct
        if not self.left:
            self.last()
            return
        stamp = conduct.frames - self.left if conduct.det else time.monotonic_ns()
        self.left -= 1
        self.engine.counters.frames += 1
        self.transport.write(answers.event(stamp))
        if conduct.interval_ms:
            self.next_at += conduct.interval_ms / 1000
            self.timer = self.loop.call_at(self.next_at, self.event)
        else:
            self.timer = self.loop.call_soon(self.event)

    def last(self) -> None:
        """Say that it is over; the end of the body follows in a write of its own, as uvicorn's."""
        self.left = None
        self.transport.write(answers.LAST + answers.DONE)
        self.stage = "after [DONE]"  # openai-python closes here, before the end of the body
        self.timer = self.loop.call_soon(self.end)

    def end(self) -> None:
        """End the body."""
        self.timer = None
        if not self.dead:
            self.transport.write(b"0\r\n\r\n")
            self.done()


async def serve(port: int) -> None:
    """Serve on loopback until cancelled."""
    loop = asyncio.get_running_loop()
    engine = Engine(loop)
    server = await loop.create_server(
        lambda: Connection(engine), "127.0.0.1", port, backlog=BACKLOG
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(int(sys.argv[1])))
