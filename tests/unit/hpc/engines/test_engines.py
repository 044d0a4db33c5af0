"""Engines: from what was asked for to command, variables, binds and probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hpc import engines
from hpc.engines import GPU_MASKS, EngineContext, Launch
from hpc.errors import ConfigError, EngineError
from hpc.model import Engine, Resources, ServiceSpec

SECRET = "s3cret-of-this-replica"
PLACE = EngineContext(
    socket="/tmp/hs-1/engine.sock",
    port=None,
    secret=SECRET,
    devices=("0", "1"),
    weights_cached=True,
    hf_home="/scratch/hf",
    run_dir="/tmp/hs-1",
    gguf_server="/opt/hpc/gguf_api_server.py",
)


def spec(server: str = "vllm", **changes: Any) -> ServiceSpec:
    engine: Engine = "vllm" if server == "vllm" else "llamacpp"
    base = ServiceSpec(
        name="mistral",
        engine=engine,
        server=server,  # type: ignore[arg-type]
        model="mistralai/Mistral-7B" if engine == "vllm" else "/models/tiny.gguf",
        image="/images/engine.sif",
        accelerator="cuda",
        resources=Resources(gpus=2, cpus=8, mem_mb=65536),
    )
    return replace(base, **changes)


def option(launch: Launch, name: str) -> str:
    assert launch.argv.count(name) == 1, launch.argv
    return launch.argv[launch.argv.index(name) + 1]


SERVERS = ("vllm", "llama-server", "llama-cpp-python")


@pytest.mark.parametrize("server", SERVERS)
def test_key_goes_by_environment_and_never_by_argument(server: str) -> None:
    launch = engines.launch(spec(server, env={"VLLM_API_KEY": "x", "API_KEY": "x"}), PLACE)

    assert launch.env[launch.key_env] == SECRET
    assert not any(SECRET in word for word in (*launch.argv, *launch.binds))


@pytest.mark.parametrize("server", SERVERS)
def test_listens_on_the_socket_or_else_on_loopback(server: str) -> None:
    by_socket = engines.launch(spec(server), PLACE)
    by_port = engines.launch(spec(server), replace(PLACE, socket=None, port=4711))

    assert by_socket.address == "unix"
    assert "/tmp/hs-1/engine.sock" in (*by_socket.argv, *by_socket.env.values())
    assert by_port.address == "tcp"
    assert "4711" in (*by_port.argv, *by_port.env.values())
    assert not {"0.0.0.0", "::"} & {*by_port.argv, *by_port.env.values()}


@pytest.mark.parametrize("server", SERVERS)
def test_gets_the_gpus_of_its_job(server: str) -> None:
    with_gpus = engines.launch(spec(server), PLACE)
    without = engines.launch(spec(server, resources=Resources(cpus=2)), PLACE)
    unsaid = engines.launch(spec(server), replace(PLACE, devices=()))

    assert with_gpus.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert without.env["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in unsaid.env


def test_amd_gpus_have_their_own_variable() -> None:
    launch = engines.launch(spec(accelerator="rocm"), PLACE)

    assert launch.env["HIP_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in launch.env


@pytest.mark.parametrize(
    ("extra", "wanted"),
    [
        ({"gpus-per-node": "2"}, "0,1"),
        ({"gpus": "h100:2"}, "0,1"),
        ({"gpus-per-socket": "1"}, "0,1"),
        ({"gres": "gpu"}, "0,1"),
        ({"gres": "nvme:1,gpu:2"}, "0,1"),
        ({"gres": "shard:4"}, "0,1"),
        ({"tres-per-task": "cpu=4,gres/gpu:2"}, "0,1"),
        ({"gpus-per-node": "0"}, ""),
        ({"gres": "gpumem:1", "gpu-bind": "none"}, ""),
        ({"exclusive": ""}, ""),
    ],
)
def test_gpus_of_further_options_are_not_hidden(extra: dict[str, str], wanted: str) -> None:
    launch = engines.launch(spec(resources=Resources(extra=extra)), PLACE)

    assert launch.env["CUDA_VISIBLE_DEVICES"] == wanted


@pytest.mark.parametrize(
    ("devices", "env", "masks"),
    [
        (("2", "3"), {}, {"HIP_VISIBLE_DEVICES": "2,3"}),
        (("GPU-5e", "GPU-6f"), {}, {"ROCR_VISIBLE_DEVICES": "GPU-5e,GPU-6f"}),
        (("2",), {"ROCR_VISIBLE_DEVICES": "1"}, {"ROCR_VISIBLE_DEVICES": "1"}),
        (("2",), {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "1"}),
    ],
)
def test_an_amd_engine_has_one_mask(
    devices: tuple[str, ...], env: dict[str, str], masks: dict[str, str]
) -> None:
    launch = engines.launch(spec(accelerator="rocm", env=env), replace(PLACE, devices=devices))

    assert {name: text for name, text in launch.env.items() if name in GPU_MASKS} == masks


@pytest.mark.parametrize(
    ("asked", "mib"), [({"mem_per_cpu": 1024, "cpus": 4}, 4096), ({"mem_mb": 0}, 4096)]
)
def test_vllm_on_cpus_gets_its_share_of_any_memory(asked: dict[str, int], mib: int) -> None:
    launch = engines.launch(spec(accelerator="none", resources=Resources(**asked)), PLACE)  # type: ignore[arg-type]

    assert option(launch, "--kv-cache-memory-bytes") == str((mib << 20) // 4)


def test_vllm_spreads_over_all_gpus_asked_for() -> None:
    assert option(engines.launch(spec(), PLACE), "--tensor-parallel-size") == "2"


@pytest.mark.parametrize(
    "key",
    [
        "tensor-parallel-size",
        "pipeline_parallel_size",
        "-tp",
        "tp",
        "--pp",
        "dp",
        "data-parallel-size",
    ],
)
def test_vllm_leaves_parallelism_to_who_says_so(key: str) -> None:
    launch = engines.launch(spec(engine_args={key: 2}), PLACE)

    long = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size"}
    bare = key.lstrip("-").replace("_", "-")
    assert option(launch, f"--{long.get(bare, bare.replace('dp', 'data-parallel-size'))}") == "2"
    assert sum(word.endswith("-parallel-size") for word in launch.argv) == 1


def test_vllm_serves_under_the_service_name_and_takes_arguments() -> None:
    args = {"max_model_len": 8192, "enforce-eager": True, "enable-prefix-caching": False}
    launch = engines.launch(spec(engine_args=args), PLACE)

    assert option(launch, "--served-model-name") == "mistral"
    assert launch.argv[:3] == ("vllm", "serve", "mistralai/Mistral-7B")
    assert option(launch, "--max-model-len") == "8192"
    assert "--enforce-eager" in launch.argv
    assert "--no-enable-prefix-caching" in launch.argv


@pytest.mark.parametrize(
    ("server", "key"),
    [
        *(("vllm", key) for key in ("api-key", "--uds", "port", "por", "HOST".lower(), "api_k")),
        *(("vllm", key) for key in ("nnodes", "n", "node_rank", "-r", "headless", "master-addr")),
        *(("vllm", key) for key in ("served_model_name", "data-parallel-address", "dpa", "dpl")),
        *(("llama-server", key) for key in ("api_key", "m", "-hf", "hff", "model-url", "mu")),
        *(("llama-server", key) for key in ("--port", "api-prefix", "models-dir", "dr")),
        ("llama-cpp-python", "port"),
    ],
)
def test_refuses_arguments_that_are_ours(server: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"engine_args of mistral: .* is set by hpc-serve itself"):
        engines.launch(spec(server, engine_args={key: "x"}), PLACE)


@pytest.mark.parametrize("key", ["headless", "nnodes", "-n", "node_rank"])
def test_an_engine_on_several_nodes_gets_a_hint(key: str) -> None:
    with pytest.raises(ConfigError, match="is set by hpc-serve itself") as caught:
        engines.launch(spec(engine_args={key: 2}), PLACE)
    assert caught.value.hint == (
        "a replica is one engine on one node; the number of replicas is set by replicas"
    )


@pytest.mark.parametrize("args", [{"tp": 4}, {"tp": 2, "pp": 2}, {"dp": 3}, {"tp": "8"}])
def test_an_engine_gets_no_more_gpus_than_its_job(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"take \d+ GPUs, and resources.gpus is 2"):
        engines.launch(spec(engine_args=args), PLACE)
    engines.launch(spec(engine_args=args, resources=Resources(cpus=4)), PLACE)


@pytest.mark.parametrize("key", ["--port=1", "dtype half", "", "-", "a/b"])
def test_what_is_no_name_of_an_option_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"engine_args of mistral: .* is no option's name"):
        engines.launch(spec(engine_args={key: True}), PLACE)


@pytest.mark.parametrize(
    ("server", "keys"),
    [
        ("vllm", ("max_model_len", "max-model-len")),
        ("vllm", ("tp", "tensor-parallel-size")),
        ("llama-server", ("c", "ctx-size")),
    ],
)
def test_one_option_in_two_spellings_is_refused(server: str, keys: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="is given twice"):
        engines.launch(spec(server, engine_args=dict.fromkeys(keys, 2)), PLACE)


def test_short_options_of_llama_server_are_written_in_full() -> None:
    args = {"fa": "on", "-ctk": "q8_0", "ub": 256}
    launch = engines.launch(spec("llama-server", engine_args=args), PLACE)

    assert option(launch, "--flash-attn") == "on"
    assert option(launch, "--cache-type-k") == "q8_0"
    assert option(launch, "--ubatch-size") == "256"


@pytest.mark.parametrize(("mem_mb", "expected"), [(8192, str(2 << 30)), (None, str(1 << 30))])
def test_vllm_on_cpus_bounds_its_cache(mem_mb: int | None, expected: str) -> None:
    launch = engines.launch(spec(resources=Resources(mem_mb=mem_mb)), PLACE)

    assert option(launch, "--kv-cache-memory-bytes") == expected


@pytest.mark.parametrize(
    "said",
    [{"engine_args": {"gpu-memory-utilization": 0.5}}, {"env": {"VLLM_CPU_KVCACHE_SPACE": "1"}}],
)
def test_vllm_on_cpus_takes_the_cache_it_is_told(said: dict[str, Any]) -> None:
    launch = engines.launch(spec(resources=Resources(), **said), PLACE)

    assert "--kv-cache-memory-bytes" not in launch.argv


def test_cached_weights_are_loaded_offline() -> None:
    inherited = {"HF_TOKEN": "hf_x", "HTTPS_PROXY": "http://proxy:1"}
    cached = engines.launch(spec(), replace(PLACE, inherited=inherited))
    missing = engines.launch(spec(), replace(PLACE, weights_cached=False, inherited=inherited))

    assert cached.env["HF_HUB_OFFLINE"] == cached.env["TRANSFORMERS_OFFLINE"] == "1"
    assert "HF_TOKEN" not in cached.env
    assert "HF_HUB_OFFLINE" not in missing.env
    assert missing.env["HF_TOKEN"] == "hf_x"
    assert missing.env["HF_HOME"] == "/scratch/hf"


def bind(path: str, mode: str = "") -> str:
    return f'type=bind,"source={path}","destination={path}"{mode}'


def test_container_sees_cache_or_model_and_its_run_folder_only() -> None:
    run = bind("/tmp/hs-1")
    split = "/models/big-00001-of-00003.gguf"
    linked = "/scratch/hf/hub/models--a--b/snapshots/c0ffee"

    assert engines.launch(spec(), PLACE).binds == (run, bind("/scratch/hf"))
    assert engines.launch(spec(model="/m/x"), PLACE).binds == (run, bind("/m/x", ",ro"))
    assert engines.launch(spec(model=linked), PLACE).binds == (
        run,
        bind("/scratch/hf/hub/models--a--b", ",ro"),
    )
    assert engines.launch(spec("llama-server", model=split), PLACE).binds == (
        run,
        bind("/models", ",ro"),
    )
    assert engines.launch(spec("llama-cpp-python"), PLACE).binds == (
        run,
        bind("/models/tiny.gguf", ",ro"),
        bind("/opt/hpc/gguf_api_server.py", ",ro"),
        bind("/opt/hpc/gguf_schema.py", ",ro"),
        bind("/opt/hpc/gguf_worker.py", ",ro"),
    )


def test_binds_survive_quotes_colons_and_commas() -> None:
    launch = engines.launch(spec(model='/m/a:b,c"d'), PLACE)

    assert launch.binds[1] == 'type=bind,"source=/m/a:b,c""d","destination=/m/a:b,c""d",ro'


def test_llama_server_does_not_count_cores_by_itself() -> None:
    launch = engines.launch(spec("llama-server"), PLACE)

    assert option(launch, "--threads") == "8"
    assert option(launch, "--parallel") == "4"
    assert option(launch, "--ctx-size") == "16384"
    assert "--n-gpu-layers" not in launch.argv  # or llama-server fits no layers to the memory
    assert option(launch, "--alias") == "mistral"
    assert launch.slots == 4
    assert launch.probe.loading_statuses == (503,)


def test_llama_server_takes_short_names_once() -> None:
    args = {"np": 2, "ngl": 10, "c": 2048}
    launch = engines.launch(spec("llama-server", engine_args=args), PLACE)

    assert option(launch, "--parallel") == "2"
    assert option(launch, "--n-gpu-layers") == "10"
    assert option(launch, "--ctx-size") == "2048"
    assert launch.slots == 2


@pytest.mark.parametrize("value", ["many", 0, -1])
def test_llama_server_needs_a_number_of_slots(value: str | int) -> None:
    with pytest.raises(ConfigError, match="parallel is no whole number from 1"):
        engines.launch(spec("llama-server", engine_args={"parallel": value}), PLACE)


def test_gguf_server_is_configured_by_variables() -> None:
    args = {"ctx-size": 2048, "threads": 3}
    launch = engines.launch(spec("llama-cpp-python", engine_args=args), PLACE)

    assert launch.argv == ("python3", "/opt/hpc/gguf_api_server.py")
    assert launch.slots == 1
    assert {key: launch.env[key] for key in ("MODEL_NAME", "MODEL_ALIAS", "SOCKET")} == {
        "MODEL_NAME": "/models/tiny.gguf",
        "MODEL_ALIAS": "mistral",
        "SOCKET": "/tmp/hs-1/engine.sock",
    }
    assert launch.env["CONTEXT_SIZE"] == "2048"
    assert launch.env["N_THREADS"] == "3"
    assert launch.env["N_GPU_LAYERS"] == "-1"


def test_gguf_server_refuses_arguments_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match="llama-cpp-python has no parallel"):
        engines.launch(spec("llama-cpp-python", engine_args={"parallel": 2}), PLACE)


def test_gguf_of_hugging_face_names_its_file() -> None:
    model = "org/repo-GGUF:q4/model.gguf"
    python = engines.launch(spec("llama-cpp-python", model=model), PLACE)
    server = engines.launch(spec("llama-server", model=model), PLACE)

    assert python.env["MODEL_NAME"] == model
    assert option(server, "--hf-repo") == "org/repo-GGUF"
    assert option(server, "--hf-file") == "q4/model.gguf"
    assert "--offline" in server.argv


@pytest.mark.parametrize(
    ("server", "model"),
    [
        ("vllm", "../x"),
        ("vllm", "org/a/b"),
        ("llama-server", "gpt2"),
        ("llama-server", "llama3:8b"),
        ("llama-server", "org/repo:file.bin"),
        ("llama-server", "org/repo@main"),
    ],
)
def test_refuses_a_model_that_the_engine_cannot_name(server: str, model: str) -> None:
    with pytest.raises(ConfigError, match="model of mistral is neither an absolute path nor ORG"):
        engines.launch(spec(server, model=model), PLACE)


@pytest.mark.parametrize("tail", ["Q4_K_M", "file.gguf", "latest", ""])
def test_vllm_drops_no_tag_in_silence(tail: str) -> None:
    with pytest.raises(ConfigError, match="vLLM loads a whole repository") as caught:
        engines.launch(spec(model=f"org/repo-GGUF:{tail}"), PLACE)
    assert caught.value.hint == (
        "write org/repo-GGUF, or serve the GGUF file with backend: llamacpp"
    )


def test_a_repository_may_have_no_owner() -> None:
    assert "gpt2" in engines.launch(spec(model="gpt2"), PLACE).argv


@pytest.mark.parametrize(
    ("model", "repo"),
    [
        ("org/x-GGUF:Q4_K_M", "org/x-GGUF:Q4_K_M"),
        ("org/x-GGUF:UD-Q4_K_XL", "org/x-GGUF:UD-Q4_K_XL"),
        ("org/x-GGUF", "org/x-GGUF"),
    ],
)
def test_llama_server_finds_a_quantization_and_llama_cpp_python_does_not(
    model: str, repo: str
) -> None:
    launch = engines.launch(spec("llama-server", model=model), PLACE)

    assert option(launch, "--hf-repo") == repo
    assert "--hf-file" not in launch.argv
    with pytest.raises(ConfigError, match="names no file, which llama-cpp-python needs"):
        engines.launch(spec("llama-cpp-python", model=model), PLACE)


@pytest.mark.parametrize("server", ["llama-server", "llama-cpp-python"])
def test_any_part_of_a_split_model_is_the_whole_model(server: str) -> None:
    path, repo = "/m/a-00002-of-00003.gguf", "org/r:q4/a-00003-of-00003.gguf"

    by_path = engines.launch(spec(server, model=path), PLACE)
    by_repo = engines.launch(spec(server, model=repo), PLACE)

    assert "/m/a-00001-of-00003.gguf" in (*by_path.argv, *by_path.env.values())
    said = " ".join((*by_repo.argv, *by_repo.env.values()))
    assert "q4/a-00001-of-00003.gguf" in said


def test_without_a_container_runs_the_given_interpreter() -> None:
    place = replace(PLACE, python="/venv/bin/python")
    given = spec(container="none", python="/mine/bin/python")

    assert engines.launch(spec(container="none"), place).argv[0] == "/venv/bin/python"
    assert engines.launch(given, place).argv[0] == "/mine/bin/python"
    assert "XDG_CACHE_HOME" not in engines.launch(given, place).env


def test_a_long_run_folder_is_one_clear_error() -> None:
    with pytest.raises(EngineError, match="too long a path for a Unix socket"):
        engines.launch(spec(), replace(PLACE, run_dir="/tmp/" + "x" * 80))


def test_a_cache_elsewhere_is_named_and_bound() -> None:
    place = replace(PLACE, hub="/scratch/hub", reached=("/big/blobs",))
    launch = engines.launch(spec(), place)

    assert launch.env["HF_HUB_CACHE"] == "/scratch/hub"
    assert launch.env["HF_HOME"] == "/tmp/hs-1/cache/huggingface"
    bound = [bind.split('"')[1] for bind in launch.binds]
    assert bound == ["source=/tmp/hs-1", "source=/scratch/hub", "source=/big/blobs"]
    assert not any(bind.endswith(",ro") for bind in launch.binds)


def test_llama_server_serves_a_revision_from_the_cache_alone() -> None:
    pinned = spec("llama-server", model="org/x:q/m.gguf", revision="v1")
    launch = engines.launch(pinned, replace(PLACE, snapshot="/hub/models--org--x/snapshots/c"))

    assert option(launch, "--model") == "/hub/models--org--x/snapshots/c/q/m.gguf"
    main = engines.launch(replace(pinned, revision="main"), replace(PLACE, weights_cached=False))
    assert option(main, "--hf-file") == "q/m.gguf"
    with pytest.raises(ConfigError, match="revision v1 of mistral: llama-server downloads main"):
        engines.launch(pinned, replace(PLACE, weights_cached=False))


def test_what_links_of_a_path_reach_is_bound_read_only() -> None:
    place = replace(PLACE, reached=("/data/shard.safetensors",))
    launch = engines.launch(spec(model="/models/m"), place)

    assert [bind.endswith(",ro") for bind in launch.binds] == [False, True, True]
    assert 'source=/data/shard.safetensors"' in launch.binds[-1]
    assert "HF_HUB_CACHE" not in launch.env
