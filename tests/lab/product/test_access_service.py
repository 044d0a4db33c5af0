"""A model asked through the tunnel while the network, the gateway or the job's node goes away."""

from __future__ import annotations

import json
import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.lab.cluster import PYTHON
from tests.lab.laptop import Tunnel, tunnel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

CUT_S = 30.0
"""Seconds after which TCP alone tries again 21 s after the end of the cut."""
ENDS_S = 120.0
"""Seconds within which a stream is told its end; the client would wait for 600 s."""
SKEW = "import time\nreal = time.time\ntime.time = lambda: real() - 3 * 86400\n"
STREAM = """
import sys, httpx, openai
key = open(sys.argv[2]).read().strip()
client = openai.OpenAI(base_url=sys.argv[1], api_key=key, max_retries=0)
try:
    for chunk in client.chat.completions.create(model="demo", stream=True, temperature=0,
            max_tokens=400, extra_body={"ignore_eos": True},
            messages=[{"role": "user", "content": "Who wrote Emma?"}]):
        print("chunk", flush=True)
    print("done", flush=True)
except (openai.OpenAIError, httpx.HTTPError) as error:
    print("error", type(error).__name__, flush=True)
"""
# The demo model answers at once; an engine that is stopped most of the time does not.
SLOW = "while kill -STOP {pid}; do sleep 1; kill -CONT {pid}; sleep 0.01; done"


@pytest.fixture(params=["openssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def served(cluster: Cluster, llamacpp_image: str) -> Iterator[Cluster]:
    try:
        cluster.hpc(
            *("submit", "demo", "--engine", "llamacpp", "--model", "models/demo-f16.gguf"),
            *("--image", llamacpp_image, "--partition", "gpu", "--gpus", "1", "--cpus", "2"),
            *("--mem", "2G", "--time", "15", "--accelerator", "cuda", "--wait"),
            timeout=240,
        )
        yield cluster
    finally:
        cluster.reset()
    assert cluster.leftovers() == []


class Stream:
    """A streamed answer on the laptop, chunk by chunk."""

    def __init__(self, cluster: Cluster, opened: Tunnel) -> None:
        argv = [PYTHON, "-c", STREAM, opened.up["base_url"], opened.up["key_file"]]
        self._process = cluster.lab.popen("laptop", argv)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._reader.join(60)
        self._process.kill_all()

    def begun(self) -> None:
        """Wait for the first chunk."""
        assert self._lines.get(timeout=60) == "chunk"

    def end(self, timeout: float) -> str:
        """Return how it ended."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            if line != "chunk":
                return line

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("ended without a word")


@contextmanager
def slow_engine(cluster: Cluster) -> Iterator[None]:
    """Let the engine answer a few tokens per second."""
    (replica,) = cluster.replicas("demo")
    node = replica["endpoint"]["host"]
    pid = cluster.shell(node, "pgrep -o -x -u owner llama-server").stdout.strip()
    brake = cluster.lab.popen(node, ["sh", "-c", SLOW.format(pid=pid)])
    try:
        yield
    finally:
        brake.kill_all()
        cluster.shell(node, f"kill -CONT {pid}", check=False)


def on_laptop(cluster: Cluster, opened: Tunnel) -> str:
    """Return what the model says through the tunnel."""
    script = STREAM.replace("400", "16").replace('{"ignore_eos": True}', "{}")
    argv = [PYTHON, "-c", script, opened.up["base_url"], opened.up["key_file"]]
    out: str = cluster.lab.run("laptop", argv, timeout=90).stdout
    return out.split("\n")[-2]


def test_a_cut_of_half_a_minute_under_a_stream_and_while_idle(
    served: Cluster, transport: str
) -> None:
    """The stream is told its end and never hangs; whatever comes next is served at once."""
    with tunnel(served.lab, "owner@login", f"--transport={transport}") as opened:
        with opened.asker() as ask:
            with slow_engine(served), Stream(served, opened) as stream:
                stream.begun()
                served.lab.cut()
                time.sleep(CUT_S)
                served.lab.restore()
                took = opened.resumed(ask)
                assert stream.end(ENDS_S) != "ended without a word"
            served.lab.cut()
            time.sleep(CUT_S)
            served.lab.restore()
            took = max(took, opened.resumed(ask))
        assert on_laptop(served, opened) == "done"
    assert took < opened.resumes_s


def test_a_gateway_that_dies_under_a_stream(served: Cluster, transport: str) -> None:
    with tunnel(served.lab, "owner@login", f"--transport={transport}") as opened:
        with slow_engine(served), Stream(served, opened) as stream:
            stream.begun()
            (gateway,) = served.json("gateway", "status")
            served.shell("login", f"kill -9 {gateway['pid']}")
            assert stream.end(ENDS_S).startswith("error ")
        opened.wait_for("moved")
        served.wait_until(lambda: on_laptop(served, opened) == "done", "the model answers again")


def test_a_wrong_clock_on_the_laptop_does_no_harm(served: Cluster, transport: str) -> None:
    served.lab.write_file("/home/owner/skew/sitecustomize.py", SKEW, node="laptop")
    env = {"PYTHONPATH": "/home/owner/skew"}
    with tunnel(served.lab, "owner@login", f"--transport={transport}", env=env) as opened:
        assert opened.up["time"] < time.time() - 86400
        assert on_laptop(served, opened) == "done"


def test_a_service_that_moves_to_another_node_stays_at_the_same_address(served: Cluster) -> None:
    with tunnel(served.lab, "owner@login") as opened:
        (replica,) = served.replicas("demo")
        node = replica["endpoint"]["host"]
        drain = ["scontrol", "update", f"nodename={node}", "state=drain", "reason=test"]
        served.lab.run("login", drain, user="root")
        try:
            job = str(replica["job"]["job_id"])
            served.lab.run("login", ["scontrol", "requeue", job])
            served.wait_until(lambda: moved(served, node), "it is ready on the other node", 120)
            served.wait_until(lambda: on_laptop(served, opened) == "done", "it answers")
            assert [event["event"] for event in opened.events if event["event"] != "up"] == []
        finally:
            resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
            served.lab.run("login", resume, user="root")


def moved(cluster: Cluster, node: str) -> bool:
    """Tell whether the replica is ready elsewhere."""
    (replica,) = cluster.replicas("demo")
    return bool(replica["phase"] == "READY" and replica["endpoint"]["host"] != node)


def test_the_json_events_are_whole(served: Cluster) -> None:
    """Each is one object with its time; the key is in none."""
    with tunnel(served.lab, "owner@login") as opened:
        key = served.lab.run("laptop", ["cat", opened.up["key_file"]]).stdout.strip()
        text = json.dumps(opened.events)
    assert key not in text
    assert all({"event", "time"} <= set(event) for event in opened.events)
