"""The gateway in front of real llama.cpp on real Slurm, while engines and it itself are hurt."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.cluster import PYTHON, STATE
from tests.lab.streams import ANSWER, PORT, Load, assert_whole, signal_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

MODELS = "/home/owner/gateway-models.yaml"
SOCKET = "/home/owner/gateway.sock"
OK, UNAUTHORIZED, FORBIDDEN, FULL, DRAINING = 200, 401, 403, 429, 503
STALL_S = 10
EDITS, STREAMS = 100, 64

EDIT = """
import http.client, json, os, signal, sys, time
port, key, path, edits, record = json.loads(sys.argv[1])
gateway = json.load(open(record))["pid"]
def ask(what):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request("GET", what, headers={"Authorization": "Bearer " + key})
    return json.loads(link.getresponse().read())
seen, hashes = [], []
for number in range(1, edits + 1):
    url = "http://127.0.0.1:%d/v1" % (9000 + number)
    models = [{"name": "extra%d" % number, "backend": "vllm", "backend_url": url}]
    with open(path + ".new", "w") as file:
        json.dump({"version": 1, "models": models}, file)
    os.replace(path + ".new", path)
    if number % 10:  # every tenth is found without being told
        os.kill(gateway, signal.SIGHUP)
    while "extra%d" % number not in [one["id"] for one in ask("/v1/models")["data"]]:
        time.sleep(0.02)
    hashes.append(ask("/version")["config"])
    seen.append(time.time())
print(json.dumps({"seen": seen, "hashes": hashes}))
"""

ATTACK = """
import http.client, json, secrets, sys
port, keys, doors = json.loads(sys.argv[1])
def ask(host, port, key, path="/v1/chat/completions"):
    link = http.client.HTTPConnection(host, port, timeout=60)
    headers = {"Authorization": "Bearer " + key} if key else {}
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "x"}]})
    link.request("POST", path, body, {**headers, "x-request-id": "same"})
    answer = link.getresponse()
    return answer.status, answer.read().decode()
guessed = [ask("127.0.0.1", port, "hs-" + secrets.token_urlsafe(32)) for _ in range(200)]
print(json.dumps({"guessed": sorted(set(guessed)), "none": ask("127.0.0.1", port, None),
    "keys": {name: ask("127.0.0.1", port, key) for name, key in keys.items()},
    "doors": [ask(host, door, key) for host, door in doors for key in (None, "hs-guess")]}))
"""


@pytest.fixture(scope="module")
def served(cluster: Cluster, llamacpp_image: str) -> Iterator[Cluster]:
    """Serve the demo model with two replicas on two nodes for all tests here."""
    try:
        cluster.hpc(
            *("submit", "demo", "--engine", "llamacpp", "--model", "models/demo-f16.gguf"),
            *("--image", llamacpp_image, "--partition", "gpu", "--replicas", "2", "--gpus", "1"),
            *("--cpus", "3", "--mem", "2G", "--time", "15", "--accelerator", "cuda", "--wait"),
            timeout=240,
        )
        write_models(cluster, 0)
        yield cluster
    finally:
        cluster.reset()
    assert cluster.leftovers() == []


@pytest.fixture
def key(served: Cluster) -> Iterator[str]:
    """Run a gateway that finds a stuck engine soon, with both replicas ready; return a key."""
    served.wait_until(
        lambda: all(r["phase"] == "READY" for r in served.replicas("demo")), "both are ready"
    )
    argv = [PYTHON, "-m", "gateway_lite", "run", "--port", str(PORT), "--models", MODELS]
    argv += ["--unix", SOCKET, "--stall-timeout", str(STALL_S)]
    served.shell("login", f"setsid {' '.join(argv)} >gateway-test.log 2>&1 </dev/null &")
    served.wait_until(
        lambda: served.hpc("gateway", "status", check=False).returncode == 0, "the gateway runs"
    )
    yield str(served.json("gateway", "ensure")["key"])
    served.hpc("gateway", "stop")


def write_models(cluster: Cluster, number: int) -> None:
    """Write a models.yaml with one further name, in one step."""
    backend = {
        "name": f"extra{number}",
        "backend": "vllm",
        "backend_url": f"http://127.0.0.1:{9000 + number}/v1",
    }
    text = json.dumps({"version": 1, "models": [backend]})
    cluster.lab.write_file(f"{MODELS}.new", text)
    cluster.shell("login", f"mv {MODELS}.new {MODELS}")


def test_an_engine_is_killed_under_load(served: Cluster, key: str) -> None:
    """What had begun there ends with an error frame, and all else is answered by the other."""
    load = Load(served, key, threads=24, seconds=None)
    load.loaded()
    signal_engine(served, "c1", "KILL")
    time.sleep(5)
    answers = load.answers()
    broken = [a for a in answers if a["error"]]

    assert {a["status"] for a in answers} == {OK}
    assert [a for a in answers if a["cut"] or not a["done"]] == []
    assert all(ANSWER.startswith(a["text"].strip()) and a["text"] for a in broken)
    assert_whole([a for a in answers if not a["error"]])
    assert len({a["replica"] for a in broken}) <= 1


def test_an_engine_stands_still(served: Cluster, key: str) -> None:
    """It gets no more requests until it moves again; those that had not begun move on."""
    load = Load(served, key, threads=24, seconds=None)
    load.loaded()
    signal_engine(served, "c1", "STOP")
    stopped = time.time()
    try:
        time.sleep(STALL_S + 8)
        answers = load.answers()
    finally:
        signal_engine(served, "c1", "CONT")
    later = [a for a in answers if a["began"] > stopped + STALL_S + 3]

    assert {a["status"] for a in answers} == {OK}
    assert [a for a in answers if a["cut"] or not a["done"]] == []
    assert_whole([a for a in answers if not a["error"]])
    assert all(a["text"] for a in answers if a["error"])
    assert len({a["replica"] for a in later}) == 1

    def both() -> bool:
        again = Load(served, key, threads=16, seconds=1)
        return len({a["replica"] for a in again.answers()}) > 1

    served.wait_until(both, "the engine that moves again is used")


def test_the_queue_is_full(served: Cluster, key: str) -> None:
    """What is beyond it is refused at once, and all that was let in is answered."""
    answers = Load(served, key, threads=150, seconds=0, long=True).answers()
    refused = [a for a in answers if a["status"] == FULL]
    admitted = [a for a in answers if a["status"] != FULL]

    assert refused
    assert all(int(a["retry_after"]) >= 1 for a in refused)
    assert {a["status"] for a in admitted} == {OK}
    assert [a for a in admitted if a["cut"] or a["error"] or not a["done"]] == []


def test_the_gateway_is_restarted_under_load(served: Cluster, key: str) -> None:
    """Streams that it had begun are finished, and the next gateway serves what comes after."""
    load = Load(served, key, threads=6, seconds=None, long=True)
    load.loaded()
    served.hpc("gateway", "stop")
    served.hpc("gateway", "start", "--models", MODELS)
    started = time.time()
    time.sleep(5)
    answers = load.answers()
    begun = [a for a in answers if a["status"] == OK]
    others = {a["status"] for a in answers if a["status"] != OK}

    assert others <= {0, DRAINING}
    assert [a for a in begun if a["cut"] or a["error"] or not a["done"]] == []
    assert {a["status"] for a in answers if a["began"] > started} == {OK}


def test_models_are_edited_under_load(served: Cluster, key: str) -> None:
    """A hundred edits, each in force before the next, and no stream is lost."""
    load = Load(served, key, threads=STREAMS, seconds=None)
    load.loaded()
    record = f"{STATE}/gateways/login/gateway.json"
    told = json.dumps([PORT, key, MODELS, EDITS, record])
    edited = json.loads(served.lab.run("login", [PYTHON, "-c", EDIT, told], timeout=1200).stdout)
    answers = load.answers()

    assert len(set(edited["hashes"])) == EDITS
    assert {a["status"] for a in answers} == {OK}
    assert_whole(answers)
    # A client between two of its streams has none, for a moment.
    assert min(under_way(answers, moment) for moment in edited["seen"]) > STREAMS // 2


def under_way(answers: list[dict[str, Any]], moment: float) -> int:
    """Return how many streams there were at a moment."""
    return sum(a["began"] < moment < a["ended"] for a in answers)


def test_the_neighbour_is_refused(served: Cluster, key: str) -> None:
    """Another account of the same machines gets nowhere, and each refusal is the same."""
    other = served.json("keys", "add", "--name", "other", "--models", "elsewhere")["key"]
    revoked = served.json("keys", "add", "--name", "revoked")["key"]
    served.hpc("keys", "revoke", "revoked")
    doors = [(r["endpoint"]["host"], r["endpoint"]["port"]) for r in served.replicas("demo")]

    def attack() -> dict[str, Any]:
        told = json.dumps([PORT, {"other": other, "revoked": revoked}, doors])
        done = served.lab.run("login", [PYTHON, "-c", ATTACK, told], user="neighbour", timeout=120)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def known() -> bool:
        told = attack()["keys"]
        return (told["other"][0], told["revoked"][0]) == (FORBIDDEN, UNAUTHORIZED)

    served.wait_until(known, "the keys are known")
    found = attack()

    assert len(found["guessed"]) == 1
    assert found["guessed"][0][0] == UNAUTHORIZED
    assert found["keys"]["revoked"] == found["guessed"][0]
    assert found["none"][0] == UNAUTHORIZED
    assert {status for status, _ in found["doors"]} == {UNAUTHORIZED}
    _no_file_is_open(served)


def _no_file_is_open(cluster: Cluster) -> None:
    """The files and the socket are there, and the neighbour reads none of them."""
    asked = f"curl -s --max-time 5 --unix-socket {SOCKET} http://gateway/healthz"
    assert cluster.shell("login", asked).stdout
    for node in ("login", "c1", "c2"):
        for script in (
            *(f"ls -R {STATE}", f"cat {STATE}/keys.yaml", f"find {STATE} -type f"),
            *(f"cat {STATE}/gateways/login/{name}" for name in ("use.json", "access.log")),
            asked,
        ):
            done = cluster.shell(node, script, user="neighbour", check=False)
            assert done.returncode != 0, (node, script)
            assert done.stdout == "", (node, script)
    for name in ("keys.yaml", "owner.key", "gateways/login/access.log"):
        mode = cluster.shell("login", f"stat -c %a {STATE}/{name}").stdout.strip()
        assert mode == "600", name
