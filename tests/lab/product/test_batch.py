"""A batch in jobs of its own on real Slurm, with real llama.cpp, while jobs are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.cluster import COMPUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

FULL = bool(os.environ.get("HPC_SERVE_TEST_BATCH_FULL"))
REQUESTS, FAULTS = (2000, 24) if FULL else (2000, 5)
LENGTH = {"max_tokens": 64, "ignore_eos": True} if FULL else {"max_tokens": 16}
"""Long enough answers that the batch lasts until all faults have come."""
SEED = 5
FEW, SMALL, STILL_S = 900, "/home/owner/small", 10.0
QUESTIONS = ("Who wrote Emma?", "Who wrote Hamlet?", "Who painted the Mona Lisa?")


def line(number: int) -> str:
    """Return one request whose answer does not depend on who gives it."""
    question = QUESTIONS[number % len(QUESTIONS)]
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, **LENGTH}
    return json.dumps({"custom_id": f"r{number}", **body})


def answers(cluster: Cluster, name: str, count: int = REQUESTS) -> dict[str, str]:
    """Return what the output says, by custom_id, each of which it has once."""
    text = cluster.shell("login", f"cat {name}").stdout
    found = [json.loads(one) for one in text.splitlines()]
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(count)]
    assert [one["error"] for one in found] == [None] * count
    return {
        one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"]
        for one in found
    }


def kill_worker(cluster: Cluster, batch: str, job: str) -> None:
    """SIGKILL to the worker; its engine goes with it and its job is not started again."""
    cluster.shell("login", f"scancel --signal=KILL --batch {job}", check=False)


def kill_engine(cluster: Cluster, batch: str, job: str) -> None:
    """SIGKILL to every engine of a node."""
    node = cluster.shell("login", f"squeue --noheader --format=%B --jobs={job}", check=False)
    name = node.stdout.strip()
    if name in COMPUTE:
        cluster.shell(name, "kill -9 $(pgrep -u owner llama-server)", check=False)


def requeue(cluster: Cluster, batch: str, job: str) -> None:
    """Slurm ends the job and starts it again."""
    cluster.shell("login", f"scontrol requeue {job}", check=False)


def cancel(cluster: Cluster, batch: str, job: str) -> None:
    """All jobs of the batch end; what they hold is given back."""
    cluster.hpc("batch", "cancel", batch, timeout=120)


def cancel_job(cluster: Cluster, batch: str, job: str) -> None:
    """Somebody ends one job behind our back."""
    cluster.shell("login", f"scancel {job}", check=False)


def kill_slurmd(cluster: Cluster, batch: str, job: str) -> None:
    """SIGKILL to a node's daemon, which comes back."""
    node = COMPUTE[int(job.partition("_")[0]) % len(COMPUTE)]
    cluster.lab.signal(node, "slurmd", signal.SIGKILL)
    cluster.lab.stop(node, "slurmd")
    cluster.lab.start(node, "slurmd")


def restart_slurmctld(cluster: Cluster, batch: str, job: str) -> None:
    """The controller goes and comes back."""
    cluster.lab.stop("login", "slurmctld")
    cluster.lab.start("login", "slurmctld")


KINDS = (kill_worker, kill_engine, cancel, kill_slurmd, restart_slurmctld)
"""What befalls a batch beside ``requeue`` and ``cancel_job``, which come first."""


def submit(cluster: Cluster, image: str, output: str, *more: str) -> str:
    """Submit the requests to three workers; return the batch."""
    made = cluster.json(
        *("batch", "submit", "in.jsonl", "-o", output, "--workers", "3"),
        *("--engine", "llamacpp", "--model", "models/demo-f16.gguf", "--image", image),
        *("--partition", "cpu", "--cpus", "2", "--mem", "1G", "--time", "60", *more),
    )
    return str(made["id"])


def test_faults_leave_every_answer_once(clean: Cluster, llamacpp_image: str) -> None:
    """Three workers on two nodes; jobs and engines are killed, requeued, cancelled and resumed."""
    clean.lab.write_file("/home/owner/in.jsonl", "".join(line(n) + "\n" for n in range(REQUESTS)))
    calm = submit(clean, llamacpp_image, "calm.jsonl")
    clean.wait_until(lambda: look(clean, calm)["state"] == "DONE", "the calm run", 900)
    assert {one["job_id"] for one in look(clean, calm)["workers"]} <= set(elements(clean, calm))
    batch = submit(clean, llamacpp_image, "answers.jsonl", "--in-flight", "1")
    clean.wait_until(lambda: look(clean, batch)["done"] > 0, "a chunk is done", timeout=600)
    hurt_array(clean, batch)
    partitions = hurt(clean, batch)
    clean.wait_until(lambda: look(clean, batch)["state"] == "DONE", "it is done", timeout=900)
    texts = answers(clean, "answers.jsonl")

    assert texts == answers(clean, "calm.jsonl")
    for first in range(len(QUESTIONS)):
        assert len({texts[f"r{n}"] for n in range(first, REQUESTS, len(QUESTIONS))}) == 1
    assert "Jane Austen" in texts["r0"]
    assert look(clean, batch)["report"]["good"] == REQUESTS
    assert {one["host"] for one in look(clean, batch)["workers"]} == set(COMPUTE)
    assert partitions == {"cpu", "gpu"}


def look(cluster: Cluster, batch: str, *home: str) -> dict[str, Any]:
    """Return how a batch is."""
    found: dict[str, Any] = cluster.json("batch", "status", batch, *home)
    return found


def elements(cluster: Cluster, batch: str) -> list[str]:
    """Return the jobs of a batch that was just submitted, which are three of one array."""
    ids = [one["job"]["job_id"] for one in look(cluster, batch)["jobs"]]
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_{n}" for n in range(3)]
    return ids


def hurt_array(cluster: Cluster, batch: str) -> None:
    """Requeue one element and cancel another; the third goes on."""
    first, second, third = elements(cluster, batch)
    cluster.wait_until(lambda: set(states(cluster, batch).values()) == {"RUNNING"}, "all run")
    requeue(cluster, batch, second)
    cancel_job(cluster, batch, third)
    cluster.wait_until(lambda: states(cluster, batch)[second] == "PENDING", "it is requeued")
    cluster.wait_until(lambda: states(cluster, batch)[third] == "FAILED", "it is cancelled")
    assert states(cluster, batch)[first] == "RUNNING"
    done = look(cluster, batch)["done"]
    cluster.wait_until(lambda: look(cluster, batch)["done"] > done, "the batch goes on")


def states(cluster: Cluster, batch: str) -> dict[str, str]:
    """Return how the jobs of a batch are."""
    found = look(cluster, batch)["jobs"]
    return {one["job"]["job_id"]: one["status"]["state"] for one in found}


def hurt(cluster: Cluster, batch: str) -> set[str]:
    """Let faults befall a batch, each once it has gone on; return where its jobs were."""
    dice, done, hit = random.Random(SEED), 0, look(cluster, batch)["done"]
    partitions: set[str] = set()
    while done < FAULTS:
        seen = look(cluster, batch)
        assert seen["state"] != "DONE", f"it was done after {done} faults"
        running = [
            one["job"]["job_id"] for one in seen["jobs"] if one["status"]["state"] == "RUNNING"
        ]
        if running and seen["done"] > hit:
            fault = dice.choice((*KINDS, requeue, cancel_job)) if FULL else KINDS[done]
            fault(cluster, batch, dice.choice(running))
            done, hit = done + 1, seen["done"]
        words = ("--workers", "3", "--partition", ("cpu", "gpu")[done % 2])
        cluster.hpc("batch", "resume", batch, *words, check=False, timeout=120)
        partitions |= set(cluster.shell("login", "squeue -h -o %P", check=False).stdout.split())
        time.sleep(0.5)
    return partitions


@contextmanager
def small_disk(cluster: Cluster, folder: str, image: Path, mib: int) -> Iterator[None]:
    """Mount one small file system of this machine on all nodes, for owner."""
    image.write_bytes(b"")
    os.truncate(image, mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    argv = ["losetup", "--find", "--show", str(image)]
    device = Path(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())
    number = device.name.removeprefix("loop")
    nodes = ("login", *COMPUTE)
    try:
        cluster.shell("login", f"mkdir -p {folder}")
        for node in nodes:
            script = f"mknod /dev/small b 7 {number} && mount /dev/small {folder}"
            cluster.shell(node, script, user="root")
        cluster.shell("login", f"chown owner: {folder}", user="root")
        yield
    finally:
        for node in nodes:
            script = f"umount --lazy {folder}; rm -f /dev/small"
            cluster.shell(node, script, user="root", check=False)
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_a_full_state_directory_holds_a_batch_up_and_loses_nothing(
    clean: Cluster, llamacpp_image: str, tmp_path: Path
) -> None:
    """Two nodes write to one file system, which fills up in the middle and is freed again."""
    clean.lab.write_file("/home/owner/in.jsonl", "".join(line(n) + "\n" for n in range(FEW)))
    home, folder = ("--home", f"{SMALL}/state"), SMALL
    with small_disk(clean, folder, tmp_path / "small.img", mib=24):
        batch = submit(clean, llamacpp_image, "full.jsonl", "--in-flight", "1", *home)
        try:
            clean.wait_until(lambda: look(clean, batch, *home)["done"] > 0, "a chunk is done", 600)
            full = clean.shell("login", f"dd if=/dev/zero of={folder}/fill bs=4k", check=False)
            assert "No space left on device" in full.stderr
            clean.wait_until(Still(lambda: look(clean, batch, *home)["done"]), "it stands still")
            stood = look(clean, batch, *home)
            assert stood["done"] < FEW
            assert stood["state"] == "RUNNING"
            kill_engine(clean, batch, stood["jobs"][0]["job"]["job_id"])
            clean.shell("login", f"rm {folder}/fill")
            clean.wait_until(lambda: look(clean, batch, *home)["state"] == "DONE", "it ends", 900)
        finally:
            clean.shell("login", "scancel --user=owner", check=False)
            clean.lab.wait_idle()
    texts = answers(clean, "full.jsonl", FEW)

    assert set(texts) == {f"r{n}" for n in range(FEW)}
    for first in range(len(QUESTIONS)):
        assert len({texts[f"r{n}"] for n in range(first, FEW, len(QUESTIONS))}) == 1


class Still:
    """Tells whether a value has been the same for some seconds.

    Args:
        value: returns it.
    """

    def __init__(self, value: Callable[[], object]) -> None:
        self._value = value
        self._last: object = None
        self._since = time.monotonic()

    def __call__(self) -> bool:
        """Look once more."""
        now = self._value()
        if now != self._last:
            self._last, self._since = now, time.monotonic()
        return time.monotonic() - self._since > STILL_S


def test_vllm_answers_a_batch_and_is_started_again(clean: Cluster, vllm_image: str) -> None:
    """The same worker with vLLM's CPU build, whose engine is killed once."""
    lines = [line(n) for n in range(0, 600, 3)]  # all the same question
    clean.lab.write_file("/home/owner/few.jsonl", "\n".join(lines) + "\n")
    batch = clean.json(
        *("batch", "submit", "few.jsonl", "-o", "few-answers.jsonl", "--in-flight", "4"),
        *("--engine", "vllm", "--model", "models/hf", "--name", "tiny", "--image", vllm_image),
        *("--partition", "cpu", "--accelerator", "none", "--cpus", "3", "--mem", "6G"),
        *("--engine-arg", "max-model-len=1024", "--engine-arg", "enforce-eager", "--time", "20"),
        *("--engine-arg", "dtype=float32", "--engine-arg", "kv-cache-memory-bytes=67108864"),
    )["id"]
    clean.wait_until(lambda: look(clean, batch)["good"] > 0, "the first answers", timeout=600)
    node = look(clean, batch)["workers"][0]["host"]
    clean.shell(node, "kill -9 $(pgrep -u owner -f '[V]LLM::EngineCore|[v]llm serve')", check=False)
    clean.wait_until(lambda: look(clean, batch)["state"] == "DONE", "it is done", timeout=900)
    text = clean.shell("login", "cat few-answers.jsonl").stdout
    found = [json.loads(one) for one in text.splitlines()]
    texts = {one["response"]["body"]["choices"][0]["message"]["content"].strip() for one in found}
    assert [one["custom_id"] for one in found] == [f"r{n}" for n in range(0, 600, 3)]
    assert texts == {"Jane Austen wrote Emma."}
