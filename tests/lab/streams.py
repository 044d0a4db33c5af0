"""Streams through the gateway while something is done to what serves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.cluster import PYTHON

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

PORT = 8081
ANSWER = "Jane Austen wrote Emma."
LOAD = (Path(__file__).parent / "product/gateway_load.py").read_text()
LLAMACPP, VLLM = "llama-server", "-f '[V]LLM::EngineCore|[v]llm serve'"
"""What pgrep finds the processes of an engine by."""


class Load:
    """Streams that run on the login node while something is done to what serves them."""

    def __init__(
        self,
        cluster: Cluster,
        key: str,
        *,
        threads: int,
        seconds: float | None,
        long: bool = False,
        model: str = "demo",
    ) -> None:
        options = {
            "model": model,
            "key": key,
            "port": PORT,
            "threads": threads,
            "seconds": seconds,
            "long": long,
            "tokens": 300 if long else 16,
        }
        self.process = cluster.lab.popen(
            "login", [PYTHON, "-c", LOAD, json.dumps(options)], stdin=-1
        )

    def loaded(self) -> None:
        """Wait until the first answers are there."""
        assert self.process.stdout.readline() == "loaded\n", self.process.communicate()

    def answers(self) -> list[dict[str, Any]]:
        """Return all answers; without a time, the load ends now."""
        out, said = self.process.communicate(timeout=600)
        found: list[dict[str, Any]] = json.loads(out.removeprefix("loaded\n"))
        assert found, said
        return found


def signal_engine(cluster: Cluster, node: str, name: str, engine: str = LLAMACPP) -> None:
    """Send a signal to all processes of a node's engine."""
    cluster.shell(node, f"kill -{name} $(pgrep -u owner {engine})", user="root")


def assert_whole(answers: list[dict[str, Any]]) -> None:
    """Assert that each stream was answered once, to its end."""
    wrong = [a for a in answers if a["text"].strip() != ANSWER or not a["done"] or a["error"]]
    assert wrong == []
