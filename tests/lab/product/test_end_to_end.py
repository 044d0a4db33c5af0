"""From `submit` on a login node to tokens on a laptop: the main job, on real parts."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.cluster import PYTHON, STATE
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

STREAM = """
import json, sys, openai
client = openai.OpenAI()
seen = {}
for number in range(*map(int, sys.argv[2:])):
    raw = client.chat.completions.with_raw_response.create(
        model=sys.argv[1], stream=True, temperature=0, max_tokens=24, user=f"person {number}",
        messages=[{"role": "user", "content": "Who wrote Emma?"}])
    pieces = [c.choices[0].delta.content or "" for c in raw.parse() if c.choices]
    seen.setdefault(raw.headers["x-gateway-backend"], []).append(pieces)
print(json.dumps({"models": [m.id for m in client.models.list()], "seen": seen}))
"""

CROWD = """
import asyncio, json, openai, select, sys
async def ask(client, number):
    stream = await client.chat.completions.create(
        model=sys.argv[1], stream=True, temperature=0, max_tokens=24, user=f"person {number}",
        messages=[{"role": "user", "content": "Who wrote Emma?"}])
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]).strip()
async def main():
    client = openai.AsyncOpenAI(max_retries=0, timeout=120)
    said = []
    while not select.select([sys.stdin], [], [], 0)[0]:
        said.append(await asyncio.gather(*(ask(client, n) for n in range(int(sys.argv[2])))))
    print(json.dumps(said))
asyncio.run(main())
"""
METRICS = """
import socket, sys
from pathlib import Path
from hpc.peer_proof import GatewayHandshake
host, port, secret = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).read_text().strip()
with socket.create_connection((host, port)) as sock:
    handshake = GatewayHandshake(secret, *sock.getpeername()[:2])
    sock.sendall(handshake.request)
    while not handshake.done:
        sock.sendall(handshake.feed(sock.recv(65536)))
    sock.sendall(b"GET /metrics HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
    print(sock.makefile("rb").read().decode())
"""
STREAMS = 64

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
QUESTION = "Who wrote Emma?"

NEIGHBOUR = """
import http.client, json, os, socket, sys
answers = {}
for host, port in json.loads(sys.argv[1]):
    for key in (None, "hs-guess", "0" * 43):
        for path in ("/v1/models", "/v1/chat/completions", "/metrics", "/health", "/invocations"):
            link = http.client.HTTPConnection(host, port, timeout=60)
            try:
                link.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
                answers[f"{host}:{port}{path} {key}"] = link.getresponse().status
            except OSError as error:
                answers[f"{host}:{port}{path} {key}"] = type(error).__name__
print(json.dumps(answers))
"""


def stream(cluster: Cluster, env: dict[str, str], model: str, first: int) -> dict[str, Any]:
    """Ask as 16 people from the laptop, with the openai package; return which replica said what."""
    people = (str(first), str(first + 16))
    answer: dict[str, Any] = json.loads(cluster.on_laptop(STREAM, env, model, *people, timeout=300))
    return answer


def stream_from_all(cluster: Cluster, env: dict[str, str], model: str) -> dict[str, Any]:
    """Ask until both replicas have answered.

    A replica whose heartbeat came late joins anew and gets little at first; and people whom another
    replica has answered stay there. So each round is of new people, until the patience ends.
    """
    got = stream(cluster, env, model, 0)
    until = time.monotonic() + PATIENCE_S
    for first in itertools.count(16, 16):
        if len(got["seen"]) == 2 or time.monotonic() > until:
            break
        more = stream(cluster, env, model, first)["seen"]
        for replica, answers in more.items():
            got["seen"].setdefault(replica, []).extend(answers)
    return got


def run_the_examples(cluster: Cluster, env: dict[str, str], model: str) -> None:
    """Run each program of examples/ on the laptop, as docs/access.md says."""
    for program, name, arguments, says in (
        ("sh", "curl.sh", [model, QUESTION], "data: [DONE]"),
        (PYTHON, "openai_chat.py", [model, QUESTION], " "),
        (PYTHON, "httpx_chat.py", [model, QUESTION], " "),
        (PYTHON, "compare_models.py", [model, model, QUESTION], "Jane Austen wrote Emma."),
    ):
        path = f"/home/owner/examples/{name}"
        cluster.lab.write_file(path, (EXAMPLES / name).read_text(), node="laptop")
        done = cluster.lab.run("laptop", [program, path, *arguments], env=env, timeout=60)
        assert says in done.stdout, (name, done)


def refusals(cluster: Cluster, node: str, addresses: list[tuple[str, int]]) -> dict[str, Any]:
    """Return what another user of a node is answered at these addresses."""
    argv = ["/opt/hpc-serve/bin/python", "-c", NEIGHBOUR, json.dumps(addresses)]
    answers: dict[str, Any] = json.loads(
        cluster.lab.run(node, argv, user="neighbour", timeout=120).stdout
    )
    return answers


def test_the_main_job(clean: Cluster, llamacpp: tuple[str, ...]) -> None:
    """Two replicas on two nodes, a gateway, a tunnel, tokens from both; then nothing is left."""
    submitted = clean.json(
        *("submit", "demo", "--engine", "llamacpp", "--model", "models/demo-f16.gguf"),
        *(*llamacpp, "--partition", "gpu", "--replicas", "2", "--gpus", "1"),
        *("--cpus", "3", "--mem", "2G", "--time", "10", "--wait"),
        timeout=240,
    )
    hosts = {replica["endpoint"]["host"] for replica in submitted["replicas"]}

    assert submitted["ready"] == 2
    assert hosts == {"c1", "c2"}

    clean.hpc("gateway", "start")
    with clean.tunnel() as env:
        got = stream_from_all(clean, env, "demo")
        assert got["models"] == ["demo"]
        assert len(got["seen"]) == 2
        for answers in got["seen"].values():
            for pieces in answers:
                assert "".join(pieces).strip() == "Jane Austen wrote Emma."
                assert len(pieces) > 2
        run_the_examples(clean, env, "demo")
        _refuse_the_neighbour(clean, submitted, env)

    clean.hpc("stop", "demo", timeout=180)
    clean.hpc("gateway", "stop")
    assert clean.leftovers() == []


def _refuse_the_neighbour(cluster: Cluster, submitted: dict[str, Any], env: dict[str, str]) -> None:
    """Another account, on the compute nodes and on the login node, is refused everywhere."""
    doors = [(r["endpoint"]["host"], r["endpoint"]["port"]) for r in submitted["replicas"]]
    gateway = cluster.json("gateway", "status")[0]
    key = env["OPENAI_API_KEY"]
    for node in ("c1", "c2"):
        answers = refusals(cluster, node, doors)
        assert set(answers.values()) <= {401, 404}, answers
        assert all(
            answer == 401 for address, answer in answers.items() if "/v1/models" in address
        ), answers
        files = cluster.shell(
            node,
            "cat /home/owner/.local/state/hpc-serve/services/demo/replicas/*/secret;"
            "for d in /tmp/hpc-serve-*; do ls $d; cat $d/*;"
            "curl -s --unix-socket $d/engine.sock http://engine/health; done",
            user="neighbour",
            check=False,
        )
        assert files.stdout == ""
        everyones = cluster.shell(
            node, "ps -eo args; cat /proc/*/environ", user="neighbour", check=False
        )
        assert "LLAMA_API_KEY" not in everyones.stdout
        assert key not in everyones.stdout
    answers = refusals(cluster, "login", [("127.0.0.1", gateway["port"]), *doors])
    alive = f"127.0.0.1:{gateway['port']}/health "  # says "ok" to anybody, and no more
    closed = {at: answer for at, answer in answers.items() if not at.startswith(alive)}
    assert set(closed.values()) <= {401, 404}, answers


def test_vllm_serves_the_same_model(clean: Cluster, vllm_image: str) -> None:
    """The same way with vLLM's CPU build on the safetensors, on both nodes."""
    submitted = clean.json(
        *("submit", "tiny", "--engine", "vllm", "--model", "models/hf"),
        *("--image", vllm_image, "--partition", "gpu", "--replicas", "2", "--accelerator", "none"),
        *("--cpus", "3", "--mem", "6G", "--time", "20", "--wait"),
        *("--engine-arg", "max-model-len=1024", "--engine-arg", "enforce-eager"),
        *("--engine-arg", "dtype=float32", "--engine-arg", "kv-cache-memory-bytes=67108864"),
        *("--engine-arg", "max-num-seqs=1"),
        timeout=600,
    )
    assert submitted["ready"] == 2
    assert {r["endpoint"]["host"] for r in submitted["replicas"]} == {"c1", "c2"}

    with clean.tunnel("--transport", "paramiko") as env:
        got = stream_from_all(clean, env, "tiny")
        run_the_examples(clean, env, "tiny")
        _fill_the_queues(clean, submitted, env)
    texts = {"".join(p).strip() for answers in got["seen"].values() for p in answers}

    assert len(got["seen"]) == 2
    assert texts == {"Jane Austen wrote Emma."}
    clean.hpc("stop", "tiny", timeout=180)
    clean.hpc("gateway", "stop")
    assert clean.leftovers() == []


def _fill_the_queues(cluster: Cluster, submitted: dict[str, Any], env: dict[str, str]) -> None:
    """More streams than both engines have places for are all answered, each to its end."""
    argv = [PYTHON, "-c", CROWD, "tiny", str(STREAMS)]
    crowd = cluster.lab.popen("laptop", argv, env=env, stdin=-1)
    places = [replica["endpoint"] for replica in submitted["replicas"]]
    queued: set[int] = set()

    def both() -> bool:
        assert crowd.poll() is None, crowd.communicate()
        queued.update(at["replica"] for at in places if waiting(cluster, at) > 0)
        return len(queued) == len(places)

    try:
        cluster.wait_until(both, "requests wait at both engines")
        out, said = crowd.communicate("enough\n", timeout=120)
    finally:
        crowd.kill_all()
    assert crowd.returncode == 0, said
    rounds = json.loads(out)
    assert rounds == [["Jane Austen wrote Emma."] * STREAMS] * len(rounds) != []


def waiting(cluster: Cluster, at: dict[str, Any]) -> float:
    """Return how many requests wait in the queue of a replica's engine."""
    secret = f"{STATE}/services/{at['service']}/replicas/{at['replica']}/secret"
    asked = [PYTHON, "-c", METRICS, at["host"], str(at["port"]), secret]
    told = cluster.lab.run("login", asked).stdout
    return sum(map(float, re.findall(r"^vllm:num_requests_waiting{.*} (.*)$", told, re.MULTILINE)))
