"""The gateway in front of real vLLM on real Slurm, while its engines are hurt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.cluster import PYTHON
from tests.lab.streams import ANSWER, PORT, VLLM, Load, assert_whole, signal_engine

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

OK = 200
STALL_S = 10
THREADS = 24
"""More than one engine is given before others are asked too."""


def serve(cluster: Cluster, image: str) -> str:
    """Serve by vLLM on both nodes, behind a gateway that finds a stuck engine soon."""
    submitted = cluster.json(
        *("submit", "tiny", "--engine", "vllm", "--model", "models/hf", "--image", image),
        *("--partition", "gpu", "--replicas", "2", "--accelerator", "none"),
        *("--cpus", "3", "--mem", "6G", "--time", "20", "--wait"),
        *("--engine-arg", "max-model-len=1024", "--engine-arg", "enforce-eager"),
        *("--engine-arg", "dtype=float32", "--engine-arg", "kv-cache-memory-bytes=67108864"),
        timeout=600,
    )
    assert submitted["ready"] == 2
    argv = [PYTHON, "-m", "gateway_lite", "run", "--port", str(PORT)]
    argv += ["--stall-timeout", str(STALL_S)]
    cluster.shell("login", f"setsid {' '.join(argv)} >gateway-vllm.log 2>&1 </dev/null &")
    cluster.wait_until(
        lambda: cluster.hpc("gateway", "status", check=False).returncode == 0, "the gateway runs"
    )
    return str(cluster.json("gateway", "ensure")["key"])


def test_an_engine_stands_still_and_then_dies(clean: Cluster, vllm_image: str) -> None:
    """No stream is cut or said twice, and what had not begun is answered by the other engine."""
    key = serve(clean, vllm_image)
    clean.wait_until(lambda: used(clean, key) == 2, "both engines answer", 120)
    load = Load(clean, key, threads=THREADS, seconds=None, model="tiny")
    load.loaded()
    signal_engine(clean, "c1", "STOP", VLLM)
    stopped = time.time()
    try:
        time.sleep(STALL_S + 10)
        answers = load.answers()
    finally:
        signal_engine(clean, "c1", "CONT", VLLM)
    assert_unharmed(answers)
    later = [a for a in answers if a["began"] > stopped + STALL_S + 4]
    assert len({a["replica"] for a in later}) == 1

    clean.wait_until(lambda: used(clean, key) == 2, "the engine that moves again is used", 120)
    load = Load(clean, key, threads=THREADS, seconds=None, model="tiny")
    load.loaded()
    signal_engine(clean, "c1", "KILL", VLLM)
    time.sleep(5)
    answers = load.answers()
    assert_unharmed(answers)
    assert len({a["replica"] for a in answers if a["error"]}) <= 1

    clean.hpc("stop", "tiny", timeout=180)
    clean.hpc("gateway", "stop")
    assert clean.leftovers() == []


def used(cluster: Cluster, key: str) -> int:
    """Return how many replicas answer, each time to the end."""
    answers = Load(cluster, key, threads=THREADS, seconds=1, model="tiny").answers()
    assert_whole(answers)
    return len({a["replica"] for a in answers})


def assert_unharmed(answers: list[dict[str, object]]) -> None:
    """Assert that streams end whole, or with an error behind the first words of the answer."""
    broken = [a for a in answers if a["error"]]
    assert {a["status"] for a in answers} == {OK}
    assert [a for a in answers if a["cut"] or not a["done"]] == []
    assert all(ANSWER.startswith(str(a["text"]).strip()) and a["text"] for a in broken)
    assert_whole([a for a in answers if not a["error"]])
