"""First files for a new site: they load, and name what is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpc import config, site_setup
from hpc.model import ServiceSpec
from hpc.site_setup import Facts
from hpc.slurm import Association, Partition, Permissions

Load = Callable[[Facts], ServiceSpec]
CPU = Partition("cpu", default=True, max_minutes=1440, nodes=10, cpus=128, mem_mb=512_000)
GPU = Partition(
    "gpu", max_minutes=2880, nodes=4, cpus=64, mem_mb=1_024_000, gpus=4, gpu_types=("h100",)
)
DEBUG = Partition("gpu-debug", max_minutes=30, nodes=9, cpus=64, mem_mb=64_000, gpus=4)
SMALL = Partition("tiny", default=True, max_minutes=30, nodes=1, cpus=2, mem_mb=2000)
ODD = Partition("on", default=True, nodes=1, cpus=3, mem_mb=900, gpus=1, gpu_types=("a", "b"))


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "site.yaml"))
    for name in ("HPC_SERVE_PARTITION", "HPC_SERVE_MODELS"):
        monkeypatch.delenv(name, raising=False)

    def load(facts: Facts) -> ServiceSpec:
        (tmp_path / "site.yaml").write_text(site_setup.site_text(facts))
        (tmp_path / "models.yaml").write_text(site_setup.models_text(facts))
        path = str(tmp_path / "models.yaml")
        found = config.load(models_file=path, home=str(tmp_path / "home"))
        (spec,) = found.services.values()
        return spec

    return load


def test_with_gpus_the_example_is_vllm_on_them(load: Load) -> None:
    spec = load(Facts((CPU, DEBUG, GPU), "apptainer", accounting=True))
    assert (spec.engine, spec.container) == ("vllm", "apptainer")
    asked = spec.resources
    assert (asked.partition, asked.gpus, asked.cpus, asked.mem_mb) == ("gpu", 1, 8, 64 * 1024)
    assert asked.time_min == 480


def test_without_gpus_the_example_is_llamacpp(load: Load) -> None:
    spec = load(Facts((CPU,), "apptainer"))
    assert (spec.engine, spec.resources.partition, spec.resources.gpus) == ("llamacpp", "cpu", 0)


def test_a_small_partition_is_not_asked_for_more_than_it_has(load: Load) -> None:
    asked = load(Facts((SMALL,))).resources
    assert (asked.partition, asked.cpus, asked.mem_mb, asked.time_min) == ("tiny", 2, 1024, 30)


def test_a_partition_may_be_called_like_a_word_of_yaml(load: Load) -> None:
    asked = load(Facts((ODD,))).resources
    assert (asked.partition, asked.gpus, asked.cpus, asked.mem_mb) == ("on", 1, 2, 512)


def test_without_slurm_the_example_runs_here(load: Load) -> None:
    spec = load(Facts())
    assert (spec.engine, spec.container, spec.resources.partition) == ("llamacpp", "none", None)


def test_a_partition_that_is_down_is_not_proposed(load: Load) -> None:
    down = Partition("gpu", up=False, gpus=8)
    assert load(Facts((CPU, down))).engine == "llamacpp"


def test_memory_that_slurm_does_not_know_is_not_asked_for(load: Load) -> None:
    for partition in (replace(GPU, mem_mb=1), replace(CPU, mem_mb=1), replace(CPU, mem_mb=0)):
        facts = Facts((partition,))
        assert load(facts).resources.mem_mb is None
        assert "memory not known" in site_setup.site_text(facts)


@pytest.mark.parametrize(
    "away",
    [replace(GPU, name="gpu0", up=False), replace(GPU, name="gpu0", away=4)],
    ids=["partition", "nodes"],
)
def test_a_partition_without_a_node_that_takes_jobs_is_not_proposed(
    load: Load, away: Partition
) -> None:
    assert load(Facts((CPU, away, GPU))).resources.partition == "gpu"
    assert load(Facts((CPU, away))).engine == "llamacpp"
    dead = replace(CPU, name="old", up=away.up, away=10 if away.up else 0)
    other = replace(CPU, name="new", default=False)
    facts = Facts((dead, other))
    assert load(facts).resources.partition == "new"
    assert "\n  partition: new\n" in site_setup.site_text(facts)


def test_parts_of_gpus_are_no_gpus(load: Load) -> None:
    mig = replace(GPU, name="mig", gpus=0, gpu_types=(), gpu_parts=("a100_1g.5gb",))
    assert load(Facts((CPU, mig))).engine == "llamacpp"
    assert "parts of GPUs (a100_1g.5gb) each" in site_setup.site_text(Facts((mig,)))
    both = load(Facts((CPU, replace(mig, gpus=2, gpu_types=("a100",))))).resources
    assert (both.gpus, both.gpu_type) == (1, "a100"), "not a slice"


ADA = Permissions(
    frozenset({"ada", "physics"}),
    (Association("phys", qos=("normal", "long"), default_qos="normal"), Association("ml", "gpu")),
    "phys",
)


@pytest.mark.parametrize(
    ("rules", "partition", "account", "qos"),
    [
        ({}, "gpu", None, None),
        ({"AllowGroups": "physics,staff"}, "gpu", None, None),
        ({"AllowGroups": "staff"}, "gpu2", None, None),
        ({"AllowAccounts": "ML"}, "gpu", "ml", None),
        ({"AllowAccounts": "chem"}, "gpu2", None, None),
        ({"DenyAccounts": "phys,ml"}, "gpu2", None, None),
        ({"DenyAccounts": "phys"}, "gpu", "ml", None),
        ({"AllowAccounts": "phys", "AllowQos": "long"}, "gpu", None, "long"),
        ({"AllowAccounts": "phys", "DenyQos": "normal,long"}, "gpu2", None, None),
        ({"AllowAccounts": "phys", "DenyQos": "normal"}, "gpu", None, "long"),
        ({"AllowAccounts": "phys", "AllowQos": "normal,long"}, "gpu", None, None),
        ({"RootOnly": "YES"}, "gpu2", None, None),
        ({"ReqResv": "YES"}, "gpu2", None, None),
    ],
)
def test_the_example_is_for_a_partition_that_takes_the_user(
    load: Load, rules: dict[str, str], partition: str, account: str | None, qos: str | None
) -> None:
    other = replace(GPU, name="gpu2", nodes=1)
    facts = Facts((CPU, GPU, other), permissions=replace(ADA, partitions={"gpu": rules}))
    asked = load(facts).resources
    assert (asked.partition, asked.account, asked.qos) == (partition, account, qos)
    told = site_setup.site_text(facts)
    assert ("not open to you" in told) == (partition == "gpu2")
    assert "# Your accounts: phys, ml; the default is phys." in told
    assert "# Your QOS: normal, long" in told


def test_an_account_is_named_where_none_is_the_default(load: Load) -> None:
    facts = Facts((CPU, GPU), permissions=replace(ADA, default_account=None))
    assert load(facts).resources.account == "phys"
    assert "\n  account: phys\n" in site_setup.site_text(facts)


def test_the_site_file_tells_what_was_found() -> None:
    text = site_setup.site_text(Facts((CPU, GPU), None, accounting=False))
    assert "#   cpu*: 10 nodes, up to 128 CPUs, 500 GiB each, walltime 1-00:00:00" in text
    assert "#   gpu: 4 nodes, up to 64 CPUs, 1000 GiB, 4 GPUs (h100) each" in text
    assert "sacct does not answer here" in text
    assert "There is no Apptainer on this machine" in text
    assert "apptainer: singularity" in site_setup.site_text(Facts((CPU,), "singularity"))


def test_every_setting_in_a_comment_is_one_that_is_allowed(load: Load, tmp_path: Path) -> None:
    """Taking away the comment signs gives a file that loads."""
    facts = Facts((CPU, GPU), "apptainer", accounting=True)
    load(facts)
    lines = site_setup.site_text(facts).splitlines()
    told = [line.replace("# ", "", 1) for line in lines if re.match(r" *# [a-z_]+: ", line)]
    assert len(told) == 8
    told.insert(told.index("  account: PROJECT"), "resources:")
    (tmp_path / "site.yaml").write_text("\n".join(told))
    config.load(models_file=str(tmp_path / "models.yaml"), home=str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("facts", "image"),
    [
        (Facts((CPU, GPU), "apptainer"), "vllm"),
        (Facts((CPU,), "apptainer"), "llamacpp-debian"),
        (Facts(), None),
    ],
)
def test_the_commands_that_follow_are_for_what_was_written(
    load: Load, facts: Facts, image: str | None
) -> None:
    spec = load(facts)
    commands = site_setup.following(facts)

    assert commands[0] == f"hpc-serve render sbatch {spec.name}"
    assert commands[-1] == f"hpc-serve submit {spec.name} --wait"
    assert commands[1:-1] == ((f"hpc-serve build {image}",) if image else ())
    assert (Path(spec.image).name if spec.image else None) == (f"{image}.sif" if image else None)
