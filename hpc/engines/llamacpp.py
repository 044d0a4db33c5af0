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
    from hpc.model import Scalar, ServiceSpec

RESERVED = frozenset(
    {
        "a", "alias", "api-key", "api-key-file", "hf-file", "hf-repo", "hf-token", "host", "m",
        "model", "path", "port", "reuse-port", "ssl-cert-file", "ssl-key-file",
    }
)  # fmt: skip
SLOTS = 4
CONTEXT = 4096
"""Context of a request in tokens, unless the model's engine_args set another."""
ALL_LAYERS = 999
LOADING = ReadinessProbe(loading_statuses=(503,))
SYNONYMS = {"c": "ctx-size", "np": "parallel", "ngl": "n-gpu-layers", "t": "threads"}
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

    Raises:
        ConfigError: the value of an engine argument is not allowed.
    """
    given = _given(spec)
    parallel = _whole(spec, given, "parallel", SLOTS)
    ours: dict[str, Scalar] = {
        **_source(weights, place),
        "alias": spec.name,
        # llama-server divides the context among its slots.
        "ctx-size": CONTEXT * parallel,
        "parallel": parallel,
        # By default llama.cpp counts the cores of the machine, not those of the job.
        "threads": spec.resources.cpus,
        "metrics": True,
        **({"n-gpu-layers": ALL_LAYERS} if spec.resources.gpus else {}),
        "host": place.socket or "127.0.0.1",
        **({} if place.socket else {"port": place.port or 0}),
    }
    return Launch(
        argv=("llama-server", *arguments.flags(ours | given, negate=False)),
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
        ConfigError: an engine argument is not a key of ``GGUF_SERVER``.
    """
    given = _given(spec)
    for key in given:
        if key not in GGUF_SERVER:
            raise ConfigError(
                f"engine_args of {spec.name}: llama-cpp-python has no {key}",
                hint=f"allowed: {', '.join(GGUF_SERVER)}",
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


def _given(spec: ServiceSpec) -> dict[str, Scalar]:
    given = arguments.given(spec, reserved=RESERVED)
    return {SYNONYMS.get(key, key): value for key, value in given.items()}


def _whole(spec: ServiceSpec, given: dict[str, Scalar], key: str, default: int) -> int:
    value = given.get(key, default)
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"engine_args of {spec.name}: {key} is no whole number from 1: {value}")
    return number


def _source(weights: Weights, place: EngineContext) -> dict[str, Scalar]:
    if weights.path:
        return {"model": weights.path}
    offline: dict[str, Scalar] = {"offline": True} if place.weights_cached else {}
    return {"hf-repo": weights.repo or "", "hf-file": weights.file or "", **offline}
