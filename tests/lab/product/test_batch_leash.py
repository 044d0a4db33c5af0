"""An engine never outlives its worker, at whatever moment that is killed."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.cluster import COMPUTE

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

KILLS = 8
GONE_S = 120.0
"""Seconds within which a killed worker's engine is gone; one that stays has 10 minutes."""


def engines(cluster: Cluster) -> list[str]:
    """Return the engines and their containers on all nodes."""
    script = "ps -eo pid,ppid,stat,args | grep -E '[l]lama-server|[S]tarter|[a]pptainer exec'"
    return [
        f"{node}: {line}"
        for node in COMPUTE
        for line in cluster.shell(node, script, user="root", check=False).stdout.splitlines()
    ]


def test_no_engine_outlives_a_killed_worker(clean: Cluster, llamacpp_image: str) -> None:
    dice = random.Random(3)
    body = {"messages": [{"role": "user", "content": "Who wrote Emma?"}], "max_tokens": 16}
    text = "".join(json.dumps({"custom_id": f"r{n}", **body}) + "\n" for n in range(20000))
    clean.lab.write_file("/home/owner/long.jsonl", text)
    batch = clean.json(
        *("batch", "submit", "long.jsonl", "-o", "long-out.jsonl"),
        *("--engine", "llamacpp", "--model", "models/demo-f16.gguf", "--image", llamacpp_image),
        *("--partition", "cpu", "--cpus", "2", "--mem", "1G", "--time", "10"),
    )["id"]
    for _ in range(KILLS):
        clean.wait_until(lambda: engines(clean), "an engine starts", 60)
        time.sleep(dice.choice((0.0, 0.2, 0.5, 1.0, 3.0)))
        clean.shell("login", "scancel --signal=KILL --batch $(squeue -h -o %i)", check=False)
        deadline = time.monotonic() + GONE_S
        while (left := engines(clean)) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert left == []
        clean.lab.wait_idle()
        clean.hpc("batch", "resume", batch, timeout=60)
    clean.hpc("batch", "cancel", batch, timeout=120)
