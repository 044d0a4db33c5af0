"""A batch in jobs of its own on real Slurm, with real llama.cpp, while jobs are killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

REQUESTS = 200
QUESTIONS = ("Who wrote Emma?", "Who wrote Hamlet?", "Who painted the Mona Lisa?")


def line(number: int) -> str:
    """Return one request whose answer does not depend on who gives it."""
    question = QUESTIONS[number % len(QUESTIONS)]
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 16}
    return json.dumps({"custom_id": f"r{number}", **body})


def answers(cluster: Cluster) -> dict[str, str]:
    """Return what the output says, by custom_id, each of which it has once."""
    text = cluster.shell("login", "cat answers.jsonl").stdout
    found = [json.loads(one) for one in text.splitlines()]
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(REQUESTS)]
    assert [one["error"] for one in found] == [None] * REQUESTS
    return {
        one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"]
        for one in found
    }


def test_a_kill_a_requeue_and_a_resume_leave_every_answer_once(
    clean: Cluster, llamacpp_image: str
) -> None:
    """Two workers on two nodes: SIGKILL, scontrol requeue, cancel and resume."""
    clean.lab.write_file("/home/owner/in.jsonl", "".join(line(n) + "\n" for n in range(REQUESTS)))
    batch = clean.json(
        *("batch", "submit", "in.jsonl", "-o", "answers.jsonl", "--workers", "2"),
        *("--engine", "llamacpp", "--model", "models/demo-f16.gguf", "--image", llamacpp_image),
        *("--partition", "cpu", "--cpus", "2", "--mem", "1G", "--time", "10", "--in-flight", "2"),
    )["id"]

    def look() -> dict[str, Any]:
        found: dict[str, Any] = clean.json("batch", "status", batch)
        return found

    clean.wait_until(lambda: look()["done"] > 0, "a chunk is done", timeout=180)
    first, second = (one["job"]["job_id"] for one in look()["jobs"])
    clean.shell("login", f"scancel --signal=KILL --batch {first}; scontrol requeue {second}")
    clean.hpc("batch", "cancel", batch, timeout=120)
    state = look()["state"]
    if state != "DONE":
        assert state == "CANCELLED"
        clean.hpc("batch", "resume", batch, "--workers", "2", timeout=120)
    clean.wait_until(lambda: look()["state"] == "DONE", "the batch is done", timeout=240)
    texts = answers(clean)

    assert len({texts[f"r{n}"] for n in range(0, REQUESTS, 3)}) == 1
    assert "Jane Austen" in texts["r0"]
    assert look()["report"]["good"] == REQUESTS
