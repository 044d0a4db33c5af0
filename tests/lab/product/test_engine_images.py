"""Our images with real Apptainer: built by `owner`, their engines started as hpc.node does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc import render
from hpc.model import Resources
from tests.lab.cluster import STATE
from tests.lab.images import build_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.cluster import Cluster
    from tests.lab.slurmlab import Lab

DEMO = Path(__file__).resolve().parents[3] / "examples/demo-model"
PROBE = Path(__file__).with_name("engine_probe.py")
TEMPLATES = "/home/owner/.config/hpc-serve/templates"
HOSTILE = """/home/owner/it's, a: "model" $(touch x)"""

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize(
    ("server", "image"),
    [
        ("llama-server", "llamacpp-debian"),
        ("llama-cpp-python", "llamacpp-cpu"),
        ("vllm", "vllm-cpu"),
    ],
)
def test_an_engine_serves_from_its_image(cluster: Cluster, server: str, image: str) -> None:
    path = build_image(cluster.lab, image)
    report = probe(cluster.lab, server, path)

    assert report["ready"], report["log"]
    assert report["text"] == "Jane Austen wrote Emma."
    assert report["metrics"] == 200
    assert report["stranger"] == 401
    assert report["cause"] is None, "the log of a healthy engine has no cause"


def probe(lab: Lab, server: str, image: str) -> dict[str, Any]:
    """Start an engine on a compute node, and check what it sees of it."""
    model = f"{HOSTILE}/hf" if server == "vllm" else f"{HOSTILE}/m.gguf"
    if server == "vllm":
        for file in sorted((DEMO / "hf").iterdir()):
            lab.copy_in(file, f"{model}/{file.name}")
    else:
        lab.copy_in(DEMO / "demo-f16.gguf", model)
    lab.copy_in(PROBE, "/home/owner/engine_probe.py")
    argv = ["/opt/hpc-serve/bin/python", "engine_probe.py", server, image, model]
    done = lab.run("c1", argv, cwd="/home/owner", timeout=400)
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    *variables, folder = report["inside"].split("\0")
    seen = dict(line.partition("=")[::2] for line in variables if line)

    assert seen["HOSTILE"] == "$HOME `id` 'q' \"d\""
    assert "LEAK" not in seen
    assert not [name for name in seen if name.startswith("SLURM")]
    assert seen["HOME"] == f"{folder.strip()}/home"
    assert not report["evaluated"], "a variable's value was run as a command"
    assert "key-" not in report["argv"]
    return report


def test_sbatch_reads_directives_as_they_are_meant(lab: Lab) -> None:
    """Real sbatch takes names and paths with quotes, backslashes, spaces and signs apart."""
    value = """it's a "b\\c" #d $(e) `f` ; * ü"""
    job = render.SbatchJob(
        command="true",
        folder="/tmp",
        stdout=f"/home/owner/{value}/o",
        stderr="/dev/null",
        job_name=value,
    )
    text = render.script("llamacpp", job, Resources(extra={"hold": ""}))
    lab.write_file("/home/owner/hostile.sh", text)
    job_id = lab.run("login", ["sbatch", "--parsable", "hostile.sh"], cwd="/home/owner").stdout
    shown = lab.run("login", ["scontrol", "show", "job", job_id.strip()]).stdout
    lab.run("login", ["scancel", job_id.strip()])

    assert f"JobName={value}\n" in shown
    assert f"StdOut=/home/owner/{value}/o\n" in shown


DERIVED = """\
Bootstrap: localimage
From: {image}

%post
    {post}
%test
    test -e /made
"""


@pytest.fixture
def derived(clean: Cluster, llamacpp_image: str) -> Iterator[Cluster]:
    """Return the cluster with a site whose own definition needs no network."""
    clean.lab.write_file("/home/owner/.config/hpc-serve/site.yaml", "templates: templates\n")
    own = DERIVED.format(image=llamacpp_image, post="touch /made")
    clean.lab.write_file(f"{TEMPLATES}/llamacpp-debian.def.j2", own)
    own = DERIVED.format(image=llamacpp_image, post="echo 'E: no such package' && exit 7")
    clean.lab.write_file(f"{TEMPLATES}/llamacpp-cpu.def.j2", own)
    yield clean
    clean.shell("login", "rm -rf ~/.config/hpc-serve ~/.local/state/hpc-serve/images")


IN_JOB = ("--in-job", "--cpus", "1", "--mem", "1G", "--time", "10")


def test_an_image_is_built_in_a_job(derived: Cluster) -> None:
    said = derived.hpc("build", "llamacpp-debian", *IN_JOB, timeout=300).stdout
    image = f"{STATE}/images/llamacpp-debian.sif"

    assert said == f"built {image}\n"
    derived.lab.run("c2", ["apptainer", "exec", image, "test", "-e", "/made"])
    again = derived.refused("build", "llamacpp-debian", *IN_JOB, code=5)
    assert again == f"the image {image} is there already"


def test_a_build_that_fails_in_a_job_says_why_and_leaves_nothing(derived: Cluster) -> None:
    said = derived.refused("build", "llamacpp-cpu", *IN_JOB, code=3)
    left = derived.shell("login", f"ls -A {STATE}/images").stdout.split()

    assert "E: no such package" in said
    assert left == ["llamacpp-cpu.build.log"]
