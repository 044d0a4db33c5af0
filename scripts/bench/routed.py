"""Conversations through a real gateway in front of replicas with caches of prefixes."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from hpc.keys import store as key_store
from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.state import directory
from scripts.bench import processes
from scripts.bench.cached import MODEL
from scripts.bench.gateways import POLL_S, PROJECT, Gateway, Place, free_port
from scripts.bench.ours import PYTHON
from scripts.bench.peers import AT, PEERS, Peer
from scripts.bench.prefixes import LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPLICAS = 4
ROUTERS = ("vllm-router", "sglang-router", "smg")
WAIT_S = 20.0


@dataclass(frozen=True)
class Talk:
    """Who talks, and how much.

    Attributes:
        chats: conversations at a time; as one ends, the next begins.
        turns: requests in all.
        seed: of all draws.
        tenants: each with a system prompt of its own.
        system_tokens: of that.
        question_tokens: of what the user says at each turn.
        answer_tokens: of what is said back.
        think_s: between an answer and the next question, in the mean.
        faster: by how much all of it goes faster than that.
    """

    chats: int
    turns: int
    seed: int
    tenants: int = 40
    system_tokens: int = 3000
    question_tokens: int = 60
    answer_tokens: int = 120
    think_s: float = 4.0
    faster: float = 10.0


@dataclass
class Heard:
    """What came of it.

    Attributes:
        seconds: from the first request to the last answer.
        ttft_s: of each request.
        failed: requests without an answer, or with a part of one.
        notes: how those ended, and how often.
        computed: tokens of its prompt that an engine computed for a request, in the mean.
        late: by which part engines took longer than they should, as the machine was busy.
    """

    seconds: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    failed: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    computed: float = 0.0
    late: float = 0.0

    def row(self, faster: float) -> dict[str, float]:
        """Return it in the engines' own time."""
        waits = sorted(self.ttft_s) or [0.0]
        return {
            "rps": len(self.ttft_s) / self.seconds / faster,
            "ttft_s": statistics.fmean(waits) * faster,
            "ttft_p90_s": waits[int(0.9 * len(waits))] * faster,
            "computed": self.computed,
            "failed": self.failed,
            "late": self.late,
        }


def measure(name: str, policy: str, talk: Talk) -> Heard:
    """Start replicas and a gateway afresh, and let conversations run through them.

    Args:
        name: ours, or one of ``ROUTERS``.
        policy: how it chooses, in its own words.
        talk: the conversations.

    Raises:
        GatewayError: it did not start.
        OSError: a replica did not.
    """
    with tempfile.TemporaryDirectory(prefix="bench-routing-") as folder, ExitStack() as stack:
        work = Path(folder)
        ports = [stack.enter_context(_replica(work, talk.faster)) for _ in range(REPLICAS)]
        if name == "ours":
            peer = stack.enter_context(_ours(work, ports, policy))
        else:
            peer = _router(name, ports, policy)
        gateway = Gateway(name, peer, Place(work, None, None, ports[0]))
        stack.callback(gateway.stop)
        gateway.start()
        heard = asyncio.run(_all(gateway, talk))
        told = [json.loads(_get(port, "/stats")) for port in ports]
        total = {name: sum(one[name] for one in told) for name in told[0]}
        heard.computed = total["computed_tokens"] / max(1, total["requests"])
        heard.late = total["slept_s"] / total["asked_s"] - 1
        return heard


class _replica:  # noqa: N801 - a context
    """One engine, running; gives its port."""

    def __init__(self, work: Path, faster: float) -> None:
        self._work, self._faster, self._port = work, faster, free_port()

    def __enter__(self) -> int:
        log = self._work / f"engine{self._port}.log"
        argv = [sys.executable, "-m", "scripts.bench.cached", str(self._port), str(self._faster)]
        with log.open("ab") as file:
            self._process = processes.spawn(argv, file, PROJECT, core=None, env={})
        end = time.monotonic() + WAIT_S
        while True:
            try:
                _get(self._port, "/health")
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    processes.stop(self._process)
                    raise
                time.sleep(POLL_S)
            else:
                return self._port

    def __exit__(self, *_: object) -> None:
        processes.stop(self._process)


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _router(name: str, ports: Sequence[int], policy: str) -> Peer:
    """Return a peer over all replicas."""
    words = list(PEERS[name].argv)
    start, end = words.index("--worker-urls"), words.index(AT[0])
    words[start + 1 : end] = [f"http://127.0.0.1:{port}" for port in ports]
    words[words.index("--policy") + 1] = policy
    return replace(PEERS[name], argv=tuple(words))


class _ours:  # noqa: N801 - a context
    """Our gateway over replicas of one service, whose nodes go on to say that they live."""

    def __init__(self, work: Path, ports: Sequence[int], policy: str) -> None:
        self._home = directory.home(str(work / "ours"))
        self._ports, self._policy = ports, policy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def __enter__(self) -> Peer:
        key, _ = key_store.add(directory.keys_path(self._home), "bench")
        spec = ServiceSpec(name=MODEL, engine="vllm", server="vllm", model="/model")
        directory.save_spec(self._home, replace(spec, replicas=len(self._ports)))
        for number in range(len(self._ports)):
            directory.new_secret(self._home, MODEL, number)
        self._say()
        self._thread.start()
        models = {"version": 1, "gateway": {"routing": self._policy}, "models": []}
        program = (sys.executable, "-m", "gateway_lite", "run", "--home", str(self._home))
        return Peer(
            (*program, "--models", "{WORK}/ours.yaml", "--port", "{PORT}"),
            {"ours.yaml": json.dumps(models)},
            PYTHON,
            (f"Authorization: Bearer {key}",),
        )

    def _beat(self) -> None:
        while not self._stop.wait(directory.BEAT_S):
            self._say()

    def _say(self) -> None:
        now = time.time()
        for number, port in enumerate(self._ports):
            said = Endpoint(
                MODEL, number, MODEL, "127.0.0.1", port, Phase.READY, "1", ends_at=None, beat_at=now
            )
            directory.save_endpoint(self._home, said)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


async def _all(gateway: Gateway, talk: Talk) -> Heard:
    heard, left = Heard(), iter(range(talk.turns))
    url = f"http://127.0.0.1:{gateway.port}"
    headers = dict(line.split(": ", 1) for line in gateway.headers)
    connector = aiohttp.TCPConnector(limit=0)
    begun = time.perf_counter()
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as client:
        users = (_user(client, talk, number, left, heard) for number in range(talk.chats))
        await asyncio.gather(*users)
    heard.seconds = time.perf_counter() - begun
    return heard


async def _user(
    client: aiohttp.ClientSession, talk: Talk, number: int, left: Iterator[int], heard: Heard
) -> None:
    """Hold one conversation after the other, until there were enough requests."""
    rng = random.Random(talk.seed * 1000 + number)
    await asyncio.sleep(rng.random() * talk.think_s / talk.faster)
    while True:
        tenant = rng.randrange(talk.tenants)
        messages = [{"role": "system", "content": _words(f"t{tenant}", talk.system_tokens)}]
        for _ in range(rng.randint(3, 8)):
            turn = next(left, None)
            if turn is None:
                return
            messages.append({"role": "user", "content": _words(f"q{turn}", talk.question_tokens)})
            said = await _ask(client, messages, talk, heard)
            messages.append({"role": "assistant", "content": said})
            await asyncio.sleep(rng.expovariate(talk.faster / talk.think_s))


def _words(seed: str, tokens: int) -> str:
    """Return a text that two seeds do not share the beginning of."""
    rng = random.Random(seed)
    letters = tokens * LETTERS
    return " ".join(f"{rng.getrandbits(40):010x}" for _ in range(letters // 11 + 1))[:letters]


async def _ask(
    client: aiohttp.ClientSession, messages: list[dict[str, str]], talk: Talk, heard: Heard
) -> str:
    body = {"model": MODEL, "messages": messages, "stream": True, "max_tokens": talk.answer_tokens}
    said: list[str] = []
    begun, first = time.perf_counter(), None
    async with client.post("/v1/chat/completions", json=body) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {") and b'"content"' in line:
                first = first or time.perf_counter()
                said.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
    text = "".join(said)
    if first is None or len(text) < talk.answer_tokens * LETTERS:
        heard.failed += 1
        heard.notes[f"{answer.status}, {len(text)} characters"] += 1
        await asyncio.sleep(0.1)
    else:
        heard.ttft_s.append(first - begun)
    return text
