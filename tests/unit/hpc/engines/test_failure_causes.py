"""Causes of failed starts, from what real servers wrote; noise of healthy ones has none."""

# ruff: noqa: E501 - logs stand as servers wrote them

from __future__ import annotations

import pytest

from hpc.engines.failure_causes import explain
from hpc.model import Resources, ServiceSpec

VLLM = ServiceSpec(
    name="mistral",
    engine="vllm",
    server="vllm",
    model="org/model",
    image="/i/vllm.sif",
    resources=Resources(gpus=2, mem_mb=65536),
)

MISSING_IMAGE = (
    "FATAL:   While checking container encryption: could not open image /nowhere.sif: failed to "
    "retrieve path for /nowhere.sif: lstat /nowhere.sif: no such file or directory"
)
BAD_IMAGE = (
    "FATAL:   While checking container encryption: could not open image /tmp/bad.sif: "
    "image format not recognized"
)
CUT_IMAGE = (
    "FATAL:   container creation failed: image driver mount failure: image driver squashfuse_ll "
    "instance exited with error: squashfuse_ll exited: Something went wrong trying to read the "
    "squashfs image."
)
DAMAGED_IMAGE = (
    "FATAL:   failed to open /bin/sh for inspection: failed to open elf binary /bin/sh: "
    "read /bin/sh: input/output error"
)
MISSING_BIND = (
    "FATAL:   container creation failed: mount hook function failure: mount /nowhere->/x error: "
    "while mounting /nowhere: mount source /nowhere doesn't exist"
)
CUDA_MEMORY = """\
(EngineCore_DP0 pid=8884)     logits = logits.to(torch.float32)
(EngineCore_DP0 pid=8884) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 786.00 MiB.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"""
LLAMA_CUDA_MEMORY = """\
ggml_backend_cuda_buffer_type_alloc_buffer: allocating 144817.04 MiB on device 0: cudaMalloc failed: out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 151851674624
llama_model_load: error loading model: unable to allocate CUDA0 buffer"""
LLAMA_MEMORY = """\
ggml_aligned_malloc: insufficient memory (attempted to allocate 17578.50 MB)
ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 18432393216
llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache
gguf_api_server cannot load /m/demo.gguf: Failed to create llama_context"""
GATED = """\
OSError: You are trying to access a gated repo.
Make sure to have access to it at https://huggingface.co/google/gemma-3-4b-pt.
403 Client Error. (Request ID: Root=1-6824e511-0a1d60376d4eefac56a9c456)

Cannot access gated repo for url https://huggingface.co/google/gemma-3-4b-pt/resolve/main/config.json.
Access to model google/gemma-3-4b-pt is restricted and you are not in the authorized list."""
NO_REPOSITORY = """\
huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-68)
Repository Not Found for url: https://huggingface.co/api/models/org/model/tree/main."""
NOT_CACHED = """\
    raise LocalEntryNotFoundError(
huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and outgoing traffic has been disabled. To enable repo look-ups and downloads online, pass 'local_files_only=False' as input."""
NOT_CACHED_GGUF = (
    "gguf_api_server cannot load org/x:y.gguf: An error happened while trying to locate the file "
    "on the Hub and we cannot find the requested files in the local cache. Please check your "
    "connection and try again or make sure your Internet connection is on."
)
NOT_CACHED_LLAMA = """\
0.00.099.062 I srv    load_model: loading model 'org/x'
0.00.099.148 E llama_model_load_from_file_impl: exactly one out metadata, path_model, and file must be defined
0.00.099.741 E srv    load_model: failed to load model, ''
0.00.099.727 E cmn  common_init_: failed to load model ''"""
MISSING_FOLDER = """\
    validate_repo_id(arg_value)
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/nowhere/model'. Use `repo_type` argument if needed."""
LONG_CONTEXT = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len (max_position_embeddings=1024.0 or model_max_length=None in model's config.json)."""
NO_CACHE = """\
(EngineCore pid=31781) ERROR 11-20 19:53:47 [core.py:1510] ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"""
SMALL_CACHE = (
    "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB "
    "KV cache is needed, which is larger than the available KV cache memory (11.20 GiB). Based on "
    "the available memory, the estimated maximum model length is 91744."
)
BUSY_GPU = (
    "ValueError: Free memory on device cuda:0 (10.1/79.1 GiB) on startup is less than desired GPU "
    "memory utilization (0.9, 71.2 GiB)."
)
BUSY_NODE = (
    "ValueError: Available memory on node 0 (11.44/13.71 GiB) on startup is less than desired CPU "
    "memory utilization (0.92, 12.62 GiB)."
)
KILLED_WORKER = (
    "RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore_0': -9}"
)
NO_KERNEL = """\
ERROR 07-28 15:07:22 [core.py:632] RuntimeError: CUDA error: no kernel image is available for execution on the device
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"""
OLD_GPU = (
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
    "Your Tesla V100-SXM2-32GB GPU has compute capability 7.0."
)
NO_DRIVER = (
    "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU "
    "and installed a driver from http://www.nvidia.com/Download/index.aspx"
)
BAD_OPTION = "api_server.py: error: unrecognized arguments: --frobnicate"
BAD_LLAMA_OPTION = "error: invalid argument: --frobnicate"
IN_USE = """\
    sock.bind(path)
OSError: [Errno 98] Address already in use"""
LLAMA_IN_USE = (
    "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080\n"
    "main: exiting due to HTTP server error"
)
NOT_GGUF = """\
gguf_init_from_reader: invalid magic characters: 'abcd', expected 'GGUF'
llama_model_load_from_file_impl: failed to load model"""
CUT_SHORT = (
    "llama_model_load: error loading model: tensor 'blk.1.attn_output.weight' data is not within "
    "the file bounds, model is corrupted or incomplete"
)
MISSING_GGUF = """\
gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (No such file or directory)
srv    load_model: failed to load model, '/m/x.gguf'"""
NEW_ARCHITECTURE = (
    "llama_model_load: error loading model: error loading model architecture: "
    "unknown model architecture: 'nova'"
)
DISK_FULL = "OSError: [Errno 28] No space left on device: '/scratch/hf/hub/x.incomplete'"
NO_PACKAGE = "/usr/bin/python3: No module named vllm"
NO_PROGRAM = 'FATAL:   "llama-server": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (MISSING_IMAGE, "the image /i/vllm.sif is missing on the node"),
        (BAD_IMAGE, "the image /i/vllm.sif is no container image, or damaged"),
        (CUT_IMAGE, "the image /i/vllm.sif is no container image, or damaged"),
        (DAMAGED_IMAGE, "the image /i/vllm.sif is no container image, or damaged"),
        (MISSING_BIND, "the path /nowhere that the container is to see is missing on the node"),
        (NO_PROGRAM, "the image /i/vllm.sif has no program llama-server"),
        (NO_PACKAGE, "the Python package vllm is not installed for the engine"),
        (BAD_OPTION, "the server does not know the option --frobnicate of engine_args"),
        (BAD_LLAMA_OPTION, "the server does not know the option --frobnicate of engine_args"),
        (CUDA_MEMORY, "out of GPU memory: the model and its cache do not fit on 2 GPU(s)"),
        (LLAMA_CUDA_MEMORY, "out of GPU memory: the model and its cache do not fit on 2 GPU(s)"),
        (BUSY_GPU, "the GPU has too little free memory (10.1/79.1 GiB): somebody else"),
        (BUSY_NODE, "the node has too little free memory (11.44/13.71 GiB) for gpu-mem"),
        (SMALL_CACHE, "the KV cache does not hold one request of max-model-len tokens"),
        (NO_CACHE, "no memory is left for the KV cache once the model is loaded"),
        (LONG_CONTEXT, "max-model-len 99999 is longer than the model's own context"),
        (LLAMA_MEMORY, "out of memory: the engine could not allocate what it needs within the job"),
        (KILLED_WORKER, "out of memory: the engine was killed, most likely for exceeding the job"),
        (GATED, "Hugging Face gives org/model only to accounts that accepted its terms"),
        (NO_REPOSITORY, "there is no model org/model on Hugging Face, or it is private"),
        (NOT_CACHED, "the weights of org/model are not in the cache, and the node cannot"),
        (NOT_CACHED_GGUF, "the weights of org/model are not in the cache, and the node cannot"),
        (NOT_CACHED_LLAMA, "the weights of org/model are not in the cache, and the node cannot"),
        (MISSING_FOLDER, "the model org/model is missing on the node"),
        (MISSING_GGUF, "the model org/model is missing on the node"),
        (NOT_GGUF, "the model org/model is not in the format that the engine reads"),
        (CUT_SHORT, "the model org/model is incomplete: its file was cut short"),
        (NEW_ARCHITECTURE, "this version of the engine does not know the architecture"),
        (NO_DRIVER, "the engine sees no usable GPU driver on the node"),
        (NO_KERNEL, "the node's GPU is of a generation that the engine or the model's data type"),
        (OLD_GPU, "the node's GPU is of a generation that the engine or the model's data type"),
        (IN_USE, "the engine's address is already in use on the node"),
        (LLAMA_IN_USE, "the engine's address is already in use on the node"),
        (DISK_FULL, "no space left on a file system that the engine writes to"),
    ],
)
def test_cause_of_what_servers_write(log: str, cause: str) -> None:
    found = explain(VLLM, 1, f"loading\n{log}\nbye")

    assert found is not None
    assert found.startswith(cause)
    assert "\n" not in found


HEALTHY = """\
(APIServer pid=1) WARNING 11-20 19:53:05 [system_utils.py:255] This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
(APIServer pid=1) INFO 11-20 19:53:05 [utils.py:1] retrying after CUDA out of memory in a former run
libfabric:123:1732:core:core:cuda_gdrcopy_dl_init():60<warn> Unable to free memory
WARNING: Could not find any nv files on this host!
/x.py:1: UserWarning: No space left on device is not checked
llama_kv_cache: no error
(APIServer pid=1) INFO:     127.0.0.1 - "GET /health HTTP/1.1" 200 OK
"""


@pytest.mark.parametrize("code", [None, 0, 1, 2])
def test_warnings_are_no_cause(code: int | None) -> None:
    assert explain(VLLM, code, HEALTHY) is None


@pytest.mark.parametrize("code", [None, 0])
def test_who_runs_or_ended_well_has_no_cause(code: int | None) -> None:
    assert explain(VLLM, code, CUDA_MEMORY) is None


@pytest.mark.parametrize("code", [-9, 137])
def test_a_killed_engine_was_out_of_memory(code: int) -> None:
    assert explain(VLLM, code, HEALTHY) == (
        "out of memory: the engine was killed, most likely for exceeding the job's 65536 MiB of memory"
    )


@pytest.mark.parametrize(("code", "word"), [(-4, "CPU"), (132, "CPU"), (-11, "segmentation")])
def test_signals_speak_for_themselves(code: int, word: str) -> None:
    assert word in (explain(VLLM, code, "") or "")


def test_an_exception_nobody_knows_is_named_as_it_stands() -> None:
    log = (
        "(EngineCore pid=9) ERROR 11-20 19:53:47 [core.py:1510] ValueError: rope is odd\n"
        "RuntimeError: Engine core initialization failed. See root cause above."
    )

    assert explain(VLLM, 1, log) == "the engine ended with ValueError: rope is odd"


def test_nothing_said_is_no_cause() -> None:
    assert explain(VLLM, 1, "bye\n") is None
