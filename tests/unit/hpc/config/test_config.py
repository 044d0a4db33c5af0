"""What a user may write, and what each mistake is answered with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc import config
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = """\
version: 1
models:
  - name: llama3-8b-instruct
    backend: vllm
    backend_url: http://vllm-1:8000
    format: chat_completions
  - name: q4-cpu-llama
    backend: llamacpp
    backend_url: http://llama-cpp-1:8080
    format: chat_completions
  - name: mistral
    backend: vllm
    model: mistralai/Mistral-7B-Instruct-v0.3
    image: vllm.sif
    replicas: 2
    resources: {partition: gpu, gpus: 1, cpus: 8, mem: 64G, time: "08:00:00"}
    engine_args: {max-model-len: 8192}
"""
STATIC = "models:\n  - name: s\n    backend: vllm\n    backend_url: http://h:8000\n"
MANAGED = "version: 1\nmodels:\n  - name: m\n    backend: vllm\n    model: org/m\n"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the tester's own configuration nor his variables reach a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "home"))
    for name in ("PARTITION", "MEM", "TIME", "MODELS", "SITE", "GPUS", "REPLICAS"):
        monkeypatch.delenv(f"HPC_SERVE_{name}", raising=False)


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return str(path)


def test_the_example_loads(tmp_path: Path) -> None:
    """The example of the documentation loads as it stands."""
    loaded = config.load(models_file=write(tmp_path, EXAMPLE))
    spec = loaded.services["mistral"]

    assert [b.name for b in loaded.backends] == ["llama3-8b-instruct", "q4-cpu-llama"]
    assert (spec.replicas, spec.resources.gpus, spec.resources.mem_mb) == (2, 1, 65536)
    assert spec.resources.time_min == 480
    assert spec.engine_args == {"max-model-len": 8192}
    assert spec.accelerator == "cuda"
    assert spec.image == str(tmp_path / "home/images/vllm.sif")


def test_an_unquoted_time_is_a_time_of_day_to_yaml_but_not_to_us(tmp_path: Path) -> None:
    """YAML 1.1 reads 12:00:00 as 43200."""
    text = MANAGED + "    resources: {time: 12:00:00, mem: 4096}\n"
    spec = config.load(models_file=write(tmp_path, text)).services["m"]

    assert (spec.resources.time_min, spec.resources.mem_mb) == (720, 4096)


def test_tls_of_replicas_is_off_unless_site_or_service_say_so(tmp_path: Path) -> None:
    models = write(tmp_path, MANAGED)
    assert config.load(models_file=models).services["m"].replica_tls is False
    site = tmp_path / "config/hpc-serve/site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("replica_tls: true\n")
    assert config.load(models_file=models).services["m"].replica_tls is True
    models = write(tmp_path, MANAGED + "    replica_tls: false\n")
    assert config.load(models_file=models).services["m"].replica_tls is False
    with pytest.raises(ConfigError, match=r"replica_tls"):
        config.load(models_file=write(tmp_path, MANAGED + "    replica_tls: maybe\n"))


def test_later_layers_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default < site < file < environment < flag, each seen to win over the one before."""
    site = tmp_path / "config/hpc-serve/site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("resources: {partition: site, account: site, cpus: 2}\nbinds: [/scratch]\n")
    text = MANAGED + "    resources: {partition: file, cpus: 3, mem: 1G}\n"
    monkeypatch.setenv("HPC_SERVE_CPUS", "4")
    monkeypatch.setenv("HPC_SERVE_MEM", "2G")

    loaded = config.load(models_file=write(tmp_path, text), flags={"mem": "3G", "gpus": None})
    resources = loaded.services["m"].resources

    assert resources.account == "site"
    assert resources.partition == "file"
    assert resources.cpus == 4
    assert resources.mem_mb == 3072
    assert resources.gpus == 1
    assert loaded.services["m"].binds == ("/scratch",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            MANAGED + "    modell: x\n",
            ":6: unknown key 'models.modell' (did you mean 'model'?); allowed: acc",
        ),
        (MANAGED + "    resources: {memory: 4G}\n", ":6: unknown key 'models.resources.memory'"),
        (MANAGED + "    resources:\n      mem: lots\n", ":7: models.resources.mem: 'lots' is not"),
        (MANAGED + "    resources:\n      time: 1h\n", "'1h' is not a Slurm time; allowed: MM,"),
        ("models:\n  - name: m\n    backend: vllm\n", ":2: models: model 'm' needs 'model'"),
        ("models:\n  - backend: vllm\n", ":2: the key 'models.name' is missing"),
        (MANAGED + "  - name: m\n    backend: vllm\n    model: y\n", ":6: models.name: the model"),
        (MANAGED + "    api_key_env: K\n", ":6: models.api_key_env: is for static backends, and"),
        (STATIC + "    replicas: 2\n", ":5: models.replicas: is for services that hpc-serve runs"),
        (STATIC + "    env: {A: b}\n", ":5: models.env: is for services that hpc-serve runs, and"),
        (STATIC + "    resources: {gpus: 1}\n", ":5: models.resources: is for services that"),
        (MANAGED + "    model: other\n", ":6: the key 'model' is given twice"),
        (
            MANAGED.replace("vllm", "tgi"),
            "models.backend: input should be 'vllm', 'llamacpp', 'sglang' or 'openai'",
        ),
        (MANAGED.replace("name: m", "name: ../m"), "'../m' is not a name"),
        ("models: [", ":1: "),
        ("- 1\n", "the file: input should be"),
    ],
)
def test_a_mistake_gets_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """File, line and key are named, and what is allowed."""
    path = write(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        config.load(models_file=path)

    assert str(caught.value).startswith(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_flag_and_a_bad_variable_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The origin of a bad value is what the user typed."""
    path = write(tmp_path, MANAGED)

    with pytest.raises(ConfigError, match=r"^--mem: 'much' is not an amount of memory"):
        config.load(models_file=path, flags={"mem": "much"})
    monkeypatch.setenv("HPC_SERVE_TIME", "soon")
    with pytest.raises(ConfigError, match=r"^HPC_SERVE_TIME: 'soon' is not a Slurm time"):
        config.load(models_file=path)


def test_vllm_gets_a_gpu_unless_told_otherwise(tmp_path: Path) -> None:
    """Nobody means its CPU build without saying so; llama.cpp is at home on CPUs."""
    path = write(tmp_path, MANAGED + "  - {name: g, backend: llamacpp, model: /g.gguf}\n")

    assert config.load(models_file=path).services["m"].resources.gpus == 1
    assert config.load(models_file=path).services["g"].resources.gpus == 0
    cpu = config.load(models_file=path, flags={"accelerator": "none"}).services["m"]
    assert cpu.resources.gpus == 0
    assert cpu.image == str(tmp_path / "home/images/vllm-cpu.sif")


def test_a_named_models_file_must_exist() -> None:
    """A wrong path is not silently replaced by another file."""
    with pytest.raises(ConfigError, match=r"there is no models file .*nowhere\.yaml"):
        config.load(models_file="nowhere.yaml")


def test_a_model_without_a_file(tmp_path: Path) -> None:
    """``submit --engine llamacpp --model FILE`` needs no models.yaml."""
    (tmp_path / "tiny.gguf").touch()
    entry = {"name": "tiny", "backend": "llamacpp", "model": "tiny.gguf"}
    spec = config.load(adhoc=entry, flags={"container": "none"}).services["tiny"]

    assert spec.model == str(tmp_path / "tiny.gguf")
    assert (spec.server, spec.image) == ("llama-cpp-python", None)


def test_a_relative_gguf_is_looked_for_beside_its_file(tmp_path: Path) -> None:
    """A path in models.yaml does not depend on where the command runs."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "models.yaml").write_text(
        "models: [{name: t, backend: llamacpp, model: w/t.gguf},"
        " {name: v, backend: vllm, model: o/n}]"
    )
    (folder / "w").mkdir()
    (folder / "w/t.gguf").touch()
    loaded = config.load(models_file=str(folder / "models.yaml"))

    assert loaded.services["t"].model == str(folder / "w/t.gguf")
    assert loaded.services["v"].model == "o/n"


@pytest.mark.parametrize(
    "image",
    ["docker://vllm/vllm-openai:v0.11.0", "oras://registry.example.org/o/v:1", "library://o/c/v:1"],
)
def test_an_image_to_fetch_is_no_path(tmp_path: Path, image: str) -> None:
    loaded = config.load(models_file=write(tmp_path, f"{MANAGED}    image: {image}\n"))
    assert loaded.services["m"].image == image


def test_an_image_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'dockre://x' is of no known kind; allowed: a path"):
        config.load(models_file=write(tmp_path, f"{MANAGED}    image: dockre://x\n"))


def test_the_network_and_the_folders_of_nodes_come_from_the_site(tmp_path: Path) -> None:
    site = tmp_path / "config/hpc-serve/site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text(
        "replica_ports: 20000-20100\ninterface: hsn0\ntmp: /scratch/$USER\nnode_paths: /local\n"
    )
    spec = config.load(models_file=write(tmp_path, MANAGED)).services["m"]
    assert (spec.replica_ports, spec.interface) == ((20000, 20100), "hsn0")
    assert (spec.tmp, spec.node_paths) == ("/scratch/$USER", ("/local",))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("replica_ports: 80-90", "'80-90' is no range of ports; allowed: LOW-HIGH from 1024"),
        ("replica_ports: 2000-1999", "is no range of ports"),
        ("replica_ports: '20000'", "is no range of ports"),
        ("replica_ports: 60000-70000", "is no range of ports"),
        ("tmp: scratch", "'scratch' is no whole path"),
        ("node_paths: [local]", "'local' is no whole path"),
    ],
)
def test_a_wrong_network_or_folder_of_nodes_is_refused(
    tmp_path: Path, line: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        config.load(models_file=write(tmp_path, f"{MANAGED}    {line}\n"))


STATIC_WITH = "models:\n  - {name: m, backend: vllm, backend_url: 'https://gpu7:8000/v1/', %s}\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("ca: ca.pem", "ca.pem cannot be read: No such file"),
        ("ca: models.yaml", "models.yaml holds no certificate"),
        ("health: ready", "health: 'ready' is not a path; allowed: such as /health, or no"),
        ("health: yes", "health: true is not a path"),
        ("model: org/m", "The model's name at that address is 'served_model'"),
    ],
)
def test_a_mistake_about_a_static_backend_gets_one_sentence(
    tmp_path: Path, more: str, said: str
) -> None:
    path = write(tmp_path, STATIC_WITH % more)

    with pytest.raises(ConfigError, match=r"models\.yaml") as caught:
        config.load(models_file=path)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: a/b, backend: vllm, model: org/m}", ":2: models.name: 'a/b' is not a name"),
        ("- {name: m, backend: sglang, model: org/m}", ":2: models.backend: sglang is for"),
        ("- {name: m, backend: vllm, model: o/m, served_model: x}", "served_model: is for static"),
        ("- {name: m, backend: vllm, backend_url: 'http://u:p@h'}", "without user or query"),
        ("- {name: m, backend: vllm, backend_url: [http://h, http://h/v1]}", "has http://h twice"),
        ("- {name: m, backend: vllm, backend_url: http://h, ca: c}", "needs an address with https"),
        (
            """- {name: m, backend: vllm, backend_url: http://h, max_tokens: 5}
  - {name: m, backend: vllm, backend_url: http://i}""",
            ":3: models: the servers of 'm' must agree on 'max_tokens'",
        ),
        ("{m: {backend_url: http://h, limits: {rpm: 5}}}", "unknown key 'models.limits'"),
    ],
)
def test_a_contradiction_of_static_backends_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    path = write(tmp_path, f"models:\n  {text}\n")

    with pytest.raises(ConfigError) as caught:
        config.load(models_file=path)

    assert str(caught.value).startswith(path)
    assert said in str(caught.value)


def test_models_under_their_names_are_a_list_too(tmp_path: Path) -> None:
    text = (
        "models:\n  org/m:8b:\n    backend_url: [http://h:1, http://h:2/v1]\n"
        "    api_key_env: A\n    health: no\n    served_model: 3090\n"
        "  own:\n    backend: vllm\n    model: org/m\n"
    )
    found = config.load(models_file=write(tmp_path, text))

    assert [(b.name, b.url, b.backend) for b in found.backends] == [
        ("org/m:8b", "http://h:1", "vllm"),
        ("org/m:8b", "http://h:2", "vllm"),
    ]
    assert (found.backends[0].health, found.backends[0].served_model) == (None, "3090")
    assert list(found.services) == ["own"]
