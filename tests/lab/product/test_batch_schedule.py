"""A batch that real Slurm starts at its time, by scrontab and by jobs that follow each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3000)]

CONFIG = "/etc/slurm/slurm.conf"
THEIRS = "# mine\n#SCRON --time=3\n0 4 * * 0 /bin/true\n"
EVERY_MINUTE = "* * * * *"


@pytest.fixture(params=["scrontab", "job"])
def via(clean: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the cluster a scrontab, or take it away for a while."""
    if request.param == "job":
        switch(clean, "s/^ScronParameters/#Scron/")
    else:
        clean.lab.run("login", ["scrontab", "-"], input=THEIRS)
    yield str(request.param)
    for one in clean.json("batch", "schedules"):
        clean.hpc("batch", "unschedule", one["id"])
    if request.param == "job":
        switch(clean, "s/^#Scron/ScronParameters/")
    clean.shell("login", "scrontab -r", check=False)
    clean.shell("login", "scancel --user=owner; rm -rf .local/state/hpc-serve/schedules")
    clean.lab.wait_idle()


def switch(cluster: Cluster, edit: str) -> None:
    cluster.shell("login", f"sed -i '{edit}' {CONFIG}", user="root")
    cluster.lab.stop("login", "slurmctld")  # "reconfigure" would leave another process behind
    cluster.lab.start("login", "slurmctld")
    cluster.wait_until(
        lambda: cluster.shell("login", "sinfo", check=False).returncode == 0, "Slurm answers"
    )


def test_it_starts_at_its_time(clean: Cluster, llamacpp_image: str, via: str) -> None:
    asked = [{"role": "user", "content": "Who wrote Emma?"}]
    body = {"messages": asked, "temperature": 0, "max_tokens": 16}
    text = "".join(json.dumps({"custom_id": f"r{n}", **body}) + "\n" for n in range(8))
    clean.lab.write_file("/home/owner/nightly.jsonl", text)
    made = clean.json(
        *("batch", "submit", "nightly.jsonl", "-o", "nightly-{date}-{time}.jsonl"),
        *("--engine", "llamacpp", "--model", "models/demo-f16.gguf", "--image", llamacpp_image),
        *("--partition", "gpu", "--gpus", "1", "--cpus", "2", "--mem", "2G", "--time", "10"),
        *("--accelerator", "cuda", "--every", EVERY_MINUTE, "--every-partition", "cpu"),
    )
    assert made["via"] == via

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = clean.json("batch", "schedules")[0]["runs"]
        return found

    clean.wait_until(runs, "the first run", 150)
    assert runs()[0]["result"] == "submitted", runs()
    first = runs()[0]["batch"]
    clean.wait_until(lambda: clean.json("batch", "status", first)["state"] == "DONE", "done", 90)
    assert clean.json("batch", "schedules")[0]["trouble"] is None
    clean.hpc("batch", "unschedule", made["id"])
    if via == "scrontab":
        assert clean.shell("login", "scrontab -l").stdout == THEIRS
    out = clean.json("batch", "status", first)["spec"]["output"]
    answers = [json.loads(line) for line in clean.shell("login", f"cat {out}").stdout.splitlines()]
    texts = {one["response"]["body"]["choices"][0]["message"]["content"] for one in answers}
    assert len(answers) == 8
    assert {text.strip() for text in texts} == {"Jane Austen wrote Emma."}
