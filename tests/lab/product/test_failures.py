"""What goes wrong at real sites: one clear sentence each, and nothing left running."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

COMMIT = "c0ffee" * 6 + "c0ff"
CONFIG, SCHEDULER, ENGINE = 2, 4, 6
ASK = """
import openai
client = openai.OpenAI(max_retries=0)
print(client.chat.completions.create(model="demo", max_tokens=16, temperature=0,
    messages=[{"role": "user", "content": "Who wrote Emma?"}]).choices[0].message.content)
"""


def submit(image: str, *more: str, model: str = "models/demo-f16.gguf") -> tuple[str, ...]:
    """Return the arguments that start one small llama.cpp service named demo."""
    return (
        *("submit", "demo", "--engine", "llamacpp", "--model", model, "--image", image),
        *("--partition", "cpu", "--cpus", "1", "--mem", "1G", "--time", "10", *more),
    )


def nothing_runs(cluster: Cluster) -> None:
    """Assert that a failed service has left nothing, even before it is stopped."""
    cluster.lab.wait_idle()
    assert cluster.leftovers() == []


def test_the_image_is_missing(clean: Cluster) -> None:
    """Seen before anything is submitted."""
    said = clean.refused(*submit("nowhere.sif"), code=ENGINE)

    assert said.startswith("the image ")
    assert "nowhere.sif of 'demo' is not there" in said
    nothing_runs(clean)
    assert clean.json("ls") == []


def test_the_model_file_is_missing(clean: Cluster, llamacpp_image: str) -> None:
    """Seen before anything is submitted."""
    said = clean.refused(*submit(llamacpp_image, model="./nowhere.gguf"), code=ENGINE)

    assert said == "the model /home/owner/nowhere.gguf of 'demo' is not there"
    assert clean.json("ls") == []


def test_links_out_of_a_cache_reach_the_engine(clean: Cluster, llamacpp_image: str) -> None:
    """hub and blobs of the user's Hugging Face cache lie elsewhere; nothing is downloaded."""
    clean.shell(
        "login",
        f"cd && mkdir -p hf far/blobs near/models--org--tiny/refs"
        f" near/models--org--tiny/snapshots/{COMMIT}"
        " && ln -sfn ~/near hf/hub && cd near/models--org--tiny && ln -sfn ~/far/blobs blobs"
        f" && printf {COMMIT} > refs/main && cp ~/models/demo-f16.gguf ~/far/blobs/hash"
        f" && ln -sfn ../../blobs/hash snapshots/{COMMIT}/demo.gguf",
    )
    shell = {"HF_HOME": "/home/owner/hf", "HF_HUB_OFFLINE": "1", "APPTAINER_NET": "1"}

    done = clean.hpc(*submit(llamacpp_image, "--wait", model="org/tiny"), env=shell, timeout=180)

    assert "note: APPTAINER_NET: no effect" in done.stderr
    assert clean.json("status", "demo")["spec"]["model"] == "org/tiny:demo.gguf"
    clean.hpc("stop", "demo", timeout=180)
    nothing_runs(clean)


def test_the_partition_is_unknown(clean: Cluster, llamacpp_image: str) -> None:
    """Slurm's own sentence, and no record of the attempt."""
    said = clean.refused(*submit(llamacpp_image, "--partition", "nowhere"), code=SCHEDULER)

    assert "invalid partition" in said
    assert clean.json("ls") == []
    nothing_runs(clean)


def test_the_engine_crashes_at_start(clean: Cluster, llamacpp_image: str) -> None:
    """A file that is no model: the cause comes from the engine's log."""
    clean.lab.write_file("/home/owner/models/broken.gguf", "this is no model")

    said = clean.refused(*submit(llamacpp_image, "--wait", model="models/broken.gguf"), code=ENGINE)

    assert said.startswith("replica 0 of 'demo' failed: ")
    assert "model" in said
    nothing_runs(clean)


@pytest.mark.parametrize("accounting", [False, True], ids=["no-accounting", "accounting"])
def test_the_engine_exceeds_its_memory(
    clean: Cluster, llamacpp_image: str, *, accounting: bool
) -> None:
    """Slurm kills the whole job; the cause is named with accounting and without."""
    clean.lab.set_accounting(on=accounting)
    huge = ("--mem", "150M", "--engine-arg", "ctx-size=600000")

    said = clean.refused(*submit(llamacpp_image, "--wait", *huge), code=ENGINE)

    clean.lab.set_accounting(on=False)

    assert said == "replica 0 of 'demo' failed: the job ended: out of memory"
    # SIGKILL leaves a folder on the node, which our next job there removes, and the record.
    clean.hpc("stop", "demo")
    folders = [found for found in clean.leftovers() if "/tmp/hpc-serve-" not in found]
    assert folders == []
    clean.hpc(*submit(llamacpp_image, "--wait"), timeout=180)
    clean.hpc("stop", "demo", timeout=180)
    nothing_runs(clean)


def test_the_walltime_is_too_short_to_load(clean: Cluster, llamacpp_image: str) -> None:
    """Said at once, not when Slurm ends the job."""
    said = clean.refused(*submit(llamacpp_image, "--time", "1", "--wait"), code=ENGINE)

    assert "the walltime of " in said
    assert "is too short to load the model" in said
    nothing_runs(clean)


def test_somebody_cancels_the_job_while_it_loads(clean: Cluster, llamacpp_image: str) -> None:
    """A model that never loads: reading from a pipe that nobody writes to."""
    clean.shell("login", "rm -f models/slow.gguf; mkfifo models/slow.gguf")
    clean.hpc(*submit(llamacpp_image, model="models/slow.gguf"))
    clean.wait_until(lambda: clean.replicas("demo")[0]["phase"] == "LOADING", "it loads")
    job = clean.replicas("demo")[0]["job"]["job_id"]
    waiting = clean.lab.popen("login", ["hpc-serve", "wait", "demo"])

    clean.shell("login", f"scancel {job}")
    said = waiting.communicate(timeout=60)[1].splitlines()[-1]

    assert waiting.returncode == ENGINE
    assert said.startswith("hpc-serve: replica 0 of 'demo' was stopped")
    nothing_runs(clean)


def test_the_controller_is_down(clean: Cluster, llamacpp_image: str) -> None:
    """Status says unknown, the running service keeps serving, and nothing is dropped."""
    clean.hpc(*submit(llamacpp_image, "--wait"), timeout=180)
    with clean.tunnel() as env:
        assert "Jane Austen" in clean.on_laptop(ASK, env)
        clean.lab.stop("login", "slurmctld")
        try:
            replica = clean.replicas("demo")[0]
            assert replica["status"]["state"] == "UNKNOWN"
            assert replica["phase"] == "READY"
            assert "did not answer" in replica["note"]
            assert "Jane Austen" in clean.on_laptop(ASK, env)
            said = clean.refused("stop", "demo", code=SCHEDULER)
            assert "is not cancelled: Slurm did not answer" in said
            assert "Jane Austen" in clean.on_laptop(ASK, env)
        finally:
            clean.lab.start("login", "slurmctld")
    clean.wait_until(
        lambda: clean.replicas("demo")[0]["status"]["state"] == "RUNNING", "slurmctld is back"
    )
    clean.hpc("stop", "demo", timeout=180)
    clean.hpc("gateway", "stop")
    assert clean.leftovers() == []


def test_the_engine_is_killed_while_it_serves(clean: Cluster, llamacpp_image: str) -> None:
    """It is started again in its job, behind the same name."""
    clean.hpc(*submit(llamacpp_image, "--wait"), timeout=180)
    before = clean.replicas("demo")[0]["endpoint"]
    # Slurm's list holds the processes of this job alone; the engine is one of them.
    clean.shell(
        before["host"],
        f"for pid in $(scontrol listpids {before['job_id']} | awk 'NR > 1 && $1 > 1 {{print $1}}');"
        ' do [ "$(cat /proc/$pid/comm)" != llama-server ] || { kill -9 $pid && found=1; }; done;'
        ' [ "$found" = 1 ]',
    )

    def again() -> bool:
        now = clean.replicas("demo")[0]["endpoint"]
        fresh = now["phases"]["READY"] > before["phases"]["READY"]
        return bool(now["phase"] == "READY" and fresh)

    clean.wait_until(again, "the engine is ready again")
    with clean.tunnel() as env:
        assert "Jane Austen" in clean.on_laptop(ASK, env)


def test_a_preempted_replica_comes_back(clean: Cluster, llamacpp_image: str) -> None:
    """submitit's signal drains the replica and requeues its job under the same id."""
    clean.hpc(*submit(llamacpp_image, "--wait"), timeout=180)
    before = clean.replicas("demo")[0]
    job = before["job"]["job_id"]

    clean.shell("login", f"scancel --batch --signal=USR2 {job}")

    def again() -> bool:
        now = clean.replicas("demo")[0]
        ready = now["endpoint"]["phases"].get("READY", 0)
        return bool(now["phase"] == "READY" and ready > before["endpoint"]["phases"]["READY"])

    clean.wait_until(again, "the job runs again", timeout=200)
    restarts = clean.shell("login", f"scontrol show job {job} | grep -o 'Restarts=[0-9]*'").stdout
    assert restarts.strip() == "Restarts=1"


def test_a_requeued_service_is_waited_for(clean: Cluster, llamacpp: tuple[str, ...]) -> None:
    """Its job's last run said that it stopped; the new one says nothing while `setup` lasts."""
    entry = {
        "name": "demo",
        "backend": "llamacpp",
        "model": "/home/owner/models/demo-f16.gguf",
        "setup": ["sleep 12"],
        "resources": {"partition": "cpu", "cpus": 1, "mem": "1G", "time": "10"},
    }
    clean.lab.write_file("/home/owner/models.yaml", json.dumps({"version": 1, "models": [entry]}))
    clean.hpc("submit", "demo", *llamacpp, "--wait", timeout=180)
    before = clean.replicas("demo")[0]
    job = before["job"]["job_id"]
    seen: set[str] = set()

    clean.shell("login", f"scontrol requeue {job}")
    waiting = clean.lab.popen("login", ["hpc-serve", "wait", "demo"])
    try:
        clean.wait_until(lambda: clean.replicas("demo")[0]["phase"] == "QUEUED", "it is requeued")
        # A job that was requeued waits two minutes, unless its user is in a hurry.
        clean.shell("login", f"scontrol update JobId={job} StartTime=now")
        while waiting.poll() is None:
            seen.add(clean.replicas("demo")[0]["phase"])
        said = waiting.communicate()
    finally:
        waiting.kill_all()
    after = clean.replicas("demo")[0]

    assert waiting.returncode == 0, said
    assert "STARTING" in seen
    assert not seen & {"STOPPED", "FAILED"}
    assert (before["endpoint"]["restarts"], after["endpoint"]["restarts"]) == (0, 1)
    assert after["status"]["restarts"] == 1
    clean.shell("login", "rm models.yaml")


def test_a_script_is_what_submit_sends(clean: Cluster, llamacpp_image: str) -> None:
    """`render sbatch` prints byte for byte what Slurm keeps of the job."""
    entry = {
        "name": "demo",
        "backend": "llamacpp",
        "model": "/home/owner/models/demo-f16.gguf",
        "image": llamacpp_image,
        "resources": {"partition": "cpu", "cpus": 1, "mem": "1G", "time": "10"},
    }
    clean.lab.write_file("/home/owner/models.yaml", json.dumps({"version": 1, "models": [entry]}))
    rendered = clean.hpc("render", "sbatch", "demo").stdout
    assert clean.json("ls") == []

    clean.hpc("submit", "demo")
    job = clean.replicas("demo")[0]["job"]["job_id"]
    sent = clean.shell("login", f"scontrol write batch_script {job} -").stdout

    assert sent.strip() == rendered.strip()
    clean.shell("login", "rm models.yaml")


def test_init_describes_the_site(clean: Cluster) -> None:
    """The files that `init` writes load, and name partitions that exist."""
    clean.shell("login", "rm -rf fresh .config/hpc-serve; mkdir fresh")
    clean.hpc("init", "--dir", "fresh")
    again = clean.refused("init", "--dir", "fresh", code=CONFIG)
    listed = clean.shell("login", "cat fresh/models.yaml .config/hpc-serve/site.yaml").stdout

    assert "--force" in again or "exists" in again
    assert "partition: " in listed
    assert "(KillWait)" in listed
    clean.shell("login", "rm -rf fresh .config/hpc-serve")
