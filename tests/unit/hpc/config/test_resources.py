"""GPUs, memory and CPUs in the words of every site, up to the lines for sbatch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpc import config, render
from hpc.errors import ConfigError
from hpc.render import SbatchJob
from hpc.render.sbatch import amounts

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import ServiceSpec


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "site.yaml"))
    return tmp_path


def write(folder: Path, resources: Any, *, below: Any = None, **keys: Any) -> None:
    """Write models.yaml with one model, and the site file."""
    entry = {"name": "m", "backend": "vllm", "model": "org/m", "resources": resources, **keys}
    (folder / "models.yaml").write_text(json.dumps({"models": [entry]}))
    (folder / "site.yaml").write_text(json.dumps(below or {}))


def load(folder: Path, resources: Any, *, below: Any = None, **keys: Any) -> ServiceSpec:
    write(folder, resources, below=None if below is None else {"resources": below}, **keys)
    return config.load().services["m"]


@pytest.mark.parametrize(
    ("resources", "count", "asked"),
    [
        ({}, 1, {"gres": "gpu:1"}),
        ({"gpus": 2, "gpu_type": "h100"}, 2, {"gres": "gpu:h100:2"}),
        ({"gpus": 2, "gpu_option": "gpus-per-node"}, 2, {"gpus-per-node": "2"}),
        ({"gpus": 2, "gpu_type": "3090", "gpu_option": "gpus"}, 2, {"gpus": "3090:2"}),
        ({"gpus": 2, "gpu_option": "gpus-per-task"}, 2, {"gpus-per-task": "2"}),
        ({"gpus": 4, "gpu_option": "none"}, 4, {}),
        ({"gpus": 0, "gpu_option": "gpus"}, 0, {}),
        ({"gpus": 0, "extra": {"gpus-per-node": 2}}, 2, {"gpus-per-node": "2"}),
        ({"extra": {"gpus-per-node": "a100:2"}}, 2, {"gpus-per-node": "a100:2"}),
        ({"extra": {"gpus": 1}}, 1, {"gpus": "1"}),
        ({"extra": {"gres": "gpu"}}, 1, {"gres": "gpu:1"}),
        ({"extra": {"gres": "gpu:3"}}, 3, {"gres": "gpu:3"}),
        ({"extra": {"gres": "gpu:1g.10gb:2"}}, 2, {"gres": "gpu:1g.10gb:2"}),
        ({"extra": {"gres": "gpu:a100:2,nvme:1"}}, 2, {"gres": "gpu:a100:2,nvme:1"}),
        ({"gpus": 2, "extra": {"gres": "nvme:1"}}, 2, {"gres": "gpu:2,nvme:1"}),
        (
            {"gpus": 2, "gpu_option": "gpus", "extra": {"gres": "nvme:1"}},
            2,
            {"gpus": "2", "gres": "nvme:1"},
        ),
        ({"extra": {"gres": "shard:4"}}, 1, {"gres": "shard:4"}),
        ({"extra": {"gpus-per-node": None}}, 1, {"gres": "gpu:1"}),
    ],
)
def test_gpus_are_asked_for_once_and_counted(
    site: Path, resources: Any, count: int, asked: dict[str, str]
) -> None:
    spec = load(site, resources)
    assert spec.resources.gpus == count
    assert amounts(spec.resources) == {"cpus-per-task": 1, **asked}


def test_the_options_stand_in_the_script_once(site: Path) -> None:
    spec = load(site, {"gpus": 2, "mem": 0, "extra": {"gres": "nvme:1", "exclusive": True}})
    job = SbatchJob("true", "/jobs", "/jobs/o", "/jobs/e", "m")
    lines = render.sbatch(spec, job).splitlines()
    assert [line for line in lines if "gres" in line] == ["#SBATCH --gres=gpu:2,nvme:1"]
    assert "#SBATCH --mem=0" in lines
    assert "#SBATCH --exclusive" in lines


@pytest.mark.parametrize(
    ("resources", "asked"),
    [
        ({"mem": "64G"}, {"mem": "65536M"}),
        ({"mem": 0}, {"mem": 0}),
        ({"mem": "0G"}, {"mem": 0}),
        ({"mem_per_cpu": "4G", "cpus": 2}, {"mem-per-cpu": "4096M"}),
        ({"extra": {"mem-per-cpu": "4G"}}, {"mem-per-cpu": "4096M"}),
        ({"mem_per_gpu": "80G"}, {"mem-per-gpu": "81920M"}),
        ({"extra": {"mem-per-gpu": "80G"}}, {"mem-per-gpu": "81920M"}),
    ],
)
def test_memory_is_asked_for_in_one_way(site: Path, resources: Any, asked: dict[str, str]) -> None:
    found = amounts(load(site, resources).resources)
    assert {option: value for option, value in found.items() if "mem" in option} == asked


@pytest.mark.parametrize("resources", [{"cpus_per_gpu": 8}, {"extra": {"cpus-per-gpu": "8"}}])
def test_cpus_of_each_gpu_are_counted_for_the_engine(site: Path, resources: Any) -> None:
    spec = load(site, {"gpus": 2, **resources}, below={"cpus": 4})
    assert spec.resources.cpus == 16
    assert amounts(spec.resources) == {"cpus-per-gpu": 8, "gres": "gpu:2"}


@pytest.mark.parametrize(
    ("below", "above", "wanted"),
    [
        ({"mem": "64G"}, {"mem": None}, {}),
        ({"mem": "64G"}, {"mem_per_cpu": "2G"}, {"mem-per-cpu": "2048M"}),
        ({"mem_per_cpu": "2G"}, {"mem": "64G"}, {"mem": "65536M"}),
        ({"extra": {"mem-per-cpu": "2G"}}, {"mem": 0}, {"mem": 0}),
        ({"extra": {"mem-per-cpu": "2G"}}, {"extra": {"mem-per-cpu": None}}, {}),
        ({"gpus": 0, "mem": "1G"}, {"gpus": None}, {"gres": "gpu:1", "mem": "1024M"}),
        ({"extra": {"gpus-per-node": 4}}, {"gpus": 2}, {"gpus-per-node": "2"}),
        ({"extra": {"gpus-per-node": 4}}, {"extra": {"gpus-per-node": None}}, {"gres": "gpu:1"}),
        ({"gpu_option": "gpus"}, {"gpus": 2, "gpu_option": None}, {"gres": "gpu:2"}),
        ({"extra": {"gres": "nvme:1"}}, {"extra": None}, {"gres": "gpu:1"}),
        ({"extra": {"gres": "nvme:1"}}, {"extra": {"gres": None}}, {"gres": "gpu:1"}),
    ],
)
def test_a_higher_layer_replaces_and_unsets(
    site: Path, below: Any, above: Any, wanted: dict[str, str]
) -> None:
    found = amounts(load(site, above, below=below).resources)
    gpus = {} if wanted.keys() & {"gpus", "gpus-per-node"} else {"gres": "gpu:1"}
    assert found == {"cpus-per-task": 1, **gpus, **wanted}


def test_null_unsets_every_key_of_a_lower_layer(site: Path) -> None:
    below = {
        "resources": {"account": "proj", "qos": "high"},
        "hf_home": "/scratch/hf",
        "setup": ["module load apptainer"],
        "env": {"A": "1", "B": "2"},
        "engine_args": {"max-model-len": 8192, "dtype": "half"},
    }
    above = {"hf_home": None, "setup": None, "env": {"A": None}, "engine_args": None}
    write(site, {"account": None}, below=below, **above)
    spec = config.load().services["m"]
    assert (spec.resources.account, spec.resources.qos) == (None, "high")
    assert (spec.hf_home, spec.setup, spec.env, spec.engine_args) == (None, (), {"B": "2"}, {})


def test_a_flag_or_variable_unsets_the_memory_too(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(site, {}, below={"resources": {"mem": "64G"}})
    assert config.load(flags={"mem": "none"}).services["m"].resources.mem_mb is None
    monkeypatch.setenv("HPC_SERVE_MEM", "none")
    monkeypatch.setenv("HPC_SERVE_GPU_OPTION", "gpus")
    resources = config.load().services["m"].resources
    assert (resources.mem_mb, resources.gpu_option) == (None, "gpus")
    changed = config.changed(resources, {"mem": "2G"})
    assert (changed.mem_mb, config.changed(changed, {"mem": "none"}).mem_mb) == (2048, None)


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        (
            {"gpus": 2, "extra": {"gpus-per-node": 2}},
            "resources.extra.gpus-per-node: resources has 'gpus: 2' too; keep that",
        ),
        ({"extra": {"gpus": 2, "gres": "gpu:2"}}, "'gpus' asks for GPUs too; keep one"),
        ({"extra": {"mem": "4G"}}, "resources.extra.mem: write 'mem: 4G' in resources instead"),
        ({"extra": {"cpus-per-task": 4}}, "write 'cpus: 4' in resources instead"),
        ({"extra": {"partition": "gpu"}}, "write 'partition: gpu' in resources instead"),
        ({"extra": {"tres-per-task": "gres/gpu:2"}}, "write 'gpus' and 'gpu_option'"),
        ({"extra": {"gpus-per-socket": 2}}, "write 'gpus' and 'gpu_option'"),
        ({"extra": {"gpus": "two"}}, None),
        ({"extra": {"gpus": "a:b:2"}}, "'a:b:2' is no number of GPUs, such as 2 or h100:2"),
        ({"extra": {"gres": "gpu:a100:1,gpu:v100:1"}}, "are GPUs of several types; keep one"),
        (
            {"extra": {"mem-per-cpu": "much"}},
            "resources.extra.mem-per-cpu: 'much' is not an amount",
        ),
        ({"mem": "4G", "mem_per_cpu": "2G"}, "sbatch takes one of mem and mem_per_cpu"),
        ({"cpus": 4, "cpus_per_gpu": 2}, "sbatch takes one of cpus and cpus_per_gpu"),
        ({"gpus": 0, "mem_per_gpu": "2G"}, "resources.mem_per_gpu needs GPUs"),
        ({"gpu_option": "gpu"}, "resources.gpu_option: input should be 'gres', 'gpus-per-node'"),
    ],
)
def test_doubles_and_contradictions_are_named(site: Path, resources: Any, told: str | None) -> None:
    if told is None:  # a type of GPU, of which sbatch gives one
        assert load(site, resources).resources.gpu_type == "two"
        return
    with pytest.raises(ConfigError) as caught:
        load(site, resources)
    assert told in str(caught.value)
