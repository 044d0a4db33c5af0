"""llama.cpp's llama-server, and the bundled server over llama-cpp-python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.engines import arguments
from hpc.engines.common import binds, environment, interpreter, listens
from hpc.engines.types import Launch, ReadinessProbe
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from hpc.engines.types import EngineContext
    from hpc.engines.weights import Weights
    from hpc.model import EngineValue, ServiceSpec

RESERVED = frozenset(
    {
        "a", "alias", "api-key", "api-key-file", "api-prefix", "docker-repo", "hf-file", "hf-repo",
        "hf-token", "host", "m", "model", "model-url", "models-dir", "models-preset", "path",
        "port", "reuse-port", "ssl-cert-file", "ssl-key-file",
    }
)  # fmt: skip
SLOTS = 4
CONTEXT = 4096
"""Context of a request in tokens, unless the model's engine_args set another."""
LOADING = ReadinessProbe(loading_statuses=(503,))
SYNONYMS = {
    "a": "alias", "m": "model", "mu": "model-url", "dr": "docker-repo", "hf": "hf-repo",
    "hfr": "hf-repo", "hff": "hf-file", "hft": "hf-token", "c": "ctx-size", "np": "parallel",
    "ngl": "n-gpu-layers", "gpu-layers": "n-gpu-layers", "t": "threads", "tb": "threads-batch",
    "b": "batch-size", "ub": "ubatch-size", "n": "n-predict", "predict": "n-predict", "s": "seed",
    "fa": "flash-attn", "ctk": "cache-type-k", "ctv": "cache-type-v", "cram": "cache-ram",
    "sm": "split-mode", "ts": "tensor-split", "mg": "main-gpu", "dev": "device",
    "ot": "override-tensor", "cmoe": "cpu-moe", "ncmoe": "n-cpu-moe", "cb": "cont-batching",
    "nocb": "no-cont-batching", "kvu": "kv-unified", "kvo": "kv-offload",
    "nkvo": "no-kv-offload", "nr": "no-repack", "mm": "mmproj", "mmu": "mmproj-url",
    "md": "model-draft", "l": "logit-bias", "j": "json-schema", "jf": "json-schema-file",
    "sps": "slot-prompt-similarity", "to": "timeout", "fit": "fit", "fitt": "fit-target",
    "rea": "reasoning", "v": "verbose", "lv": "verbosity",
}  # fmt: skip
"""llama.cpp's short options (``common/arg.cpp``), which have one dash whatever their length."""
GGUF_SERVER = {
    "ctx-size": "CONTEXT_SIZE",
    "n-gpu-layers": "N_GPU_LAYERS",
    "threads": "N_THREADS",
    "queue-size": "QUEUE_SIZE",
    "chat-format": "CHAT_FORMAT",
}
"""Keys of engine_args for gguf_api_server.py, each with its environment variable."""
MODULES = ("gguf_schema.py", "gguf_worker.py")
"""Modules that gguf_api_server.py imports from its own folder."""


def launch(spec: ServiceSpec, place: EngineContext, weights: Weights) -> Launch:
    """Return the command that starts llama-server.

    The number of layers on GPUs stays unset: llama-server fits only what is unset to the memory.

    Raises:
        ConfigError: the value of an engine argument is not allowed.
    """
    given = _given(spec)
    parallel = _whole(spec, given, "parallel", SLOTS)
    ours: dict[str, EngineValue] = {
        **_source(spec, weights, place),
        "alias": spec.name,
        # llama-server divides the context among its slots.
        "ctx-size": CONTEXT * parallel,
        "parallel": parallel,
        # By default llama.cpp counts the cores of the machine, not those of the job.
        "threads": spec.resources.cpus,
        "metrics": True,
        "host": place.socket or "127.0.0.1",
        **({} if place.socket else {"port": place.port or 0}),
    }
    return Launch(
        argv=("llama-server", *arguments.flags(ours | given, negate=False, repeat=True)),
        env=environment(spec, place, weights, ours={}, key_env="LLAMA_API_KEY"),
        folders=("home", "tmp", "cache"),
        binds=binds(place, weights),
        probe=LOADING,
        slots=parallel,
        address=listens(place),
        key_env="LLAMA_API_KEY",
    )


def launch_python(spec: ServiceSpec, place: EngineContext, weights: Weights) -> Launch:
    """Return the command that starts gguf_api_server.py; the server handles one request at a time.

    Raises:
        ConfigError: an engine argument is not a key of ``GGUF_SERVER``, or the model has no file.
    """
    given = _given(spec)
    for key in given:
        if key not in GGUF_SERVER:
            raise ConfigError(
                f"engine_args of {spec.name}: llama-cpp-python has no {key}",
                hint=f"allowed: {', '.join(GGUF_SERVER)}; others need server: llama-server",
            )
        if isinstance(given[key], (tuple, bool)):
            raise ConfigError(f"engine_args of {spec.name}: {key} needs one value")
    if weights.path is None and weights.file is None:
        raise ConfigError(
            f"the model of {spec.name} names no file, which llama-cpp-python needs: {spec.model}",
            hint="write ORG/NAME:FILE.gguf, with a file of the model's page",
        )
    folder = place.gguf_server.rpartition("/")[0]
    ours = {
        "MODEL_NAME": weights.path or f"{weights.repo}:{weights.file}",
        "MODEL_ALIAS": spec.name,
        "CONTEXT_SIZE": str(CONTEXT),
        "N_THREADS": str(spec.resources.cpus),
        "N_GPU_LAYERS": "-1" if spec.resources.gpus else "0",
        **({"REVISION": spec.revision} if spec.revision else {}),
        **({"SOCKET": place.socket} if place.socket else {"PORT": str(place.port or 0)}),
        **{GGUF_SERVER[key]: str(value) for key, value in given.items()},
    }
    return Launch(
        argv=(interpreter(spec, place), place.gguf_server),
        env=environment(spec, place, weights, ours=ours, key_env="API_KEY"),
        folders=("home", "tmp", "cache"),
        binds=binds(
            place, weights, scripts=[place.gguf_server, *(f"{folder}/{name}" for name in MODULES)]
        ),
        probe=LOADING,
        slots=1,
        address=listens(place),
        key_env="API_KEY",
    )


def _given(spec: ServiceSpec) -> dict[str, EngineValue]:
    return arguments.given(spec, reserved=RESERVED, synonyms=SYNONYMS)


def _whole(spec: ServiceSpec, given: dict[str, EngineValue], key: str, default: int) -> int:
    value = given.get(key, default)
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"engine_args of {spec.name}: {key} is no whole number from 1: {value}")
    return number


def _source(spec: ServiceSpec, weights: Weights, place: EngineContext) -> dict[str, EngineValue]:
    if weights.path:
        return {"model": weights.path}
    pinned = spec.revision not in (None, "main")
    if pinned and place.snapshot and weights.file:
        return {"model": f"{place.snapshot}/{weights.file}"}
    if pinned:
        raise ConfigError(
            f"the revision {spec.revision} of {spec.name}: llama-server downloads main alone",
            hint="download the file first (hf download), or use server: llama-cpp-python",
        )
    offline: dict[str, EngineValue] = {"offline": True} if place.weights_cached else {}
    if weights.file is None:  # llama-server itself looks the quantization up
        repo = f"{weights.repo}:{weights.tag}" if weights.tag else weights.repo or ""
        return {"hf-repo": repo, **offline}
    return {"hf-repo": weights.repo or "", "hf-file": weights.file, **offline}
