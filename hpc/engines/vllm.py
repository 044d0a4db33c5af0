"""vLLM's OpenAI server, on GPUs or, in its CPU build, on CPUs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hpc.engines import arguments
from hpc.engines.common import binds, environment, interpreter, listens, memory_mb
from hpc.engines.types import Launch, ReadinessProbe
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from hpc.engines.types import EngineContext
    from hpc.engines.weights import Weights
    from hpc.model import EngineValue, ServiceSpec

SEVERAL_NODES = frozenset(
    {
        "nnodes", "node-rank", "master-addr", "master-port", "headless", "data-parallel-rank",
        "data-parallel-start-rank", "data-parallel-size-local", "data-parallel-address",
        "data-parallel-rpc-port", "data-parallel-hybrid-lb", "data-parallel-external-lb",
        "data-parallel-multi-port-external-lb", "data-parallel-supervisor-port",
    }
)  # fmt: skip
"""Options of an engine on several nodes, or behind a balancer; a replica is one engine."""
RESERVED = frozenset(
    {
        "allowed-media-domains", "api-key", "host", "model", "model-tag", "port", "revision",
        "served-model-name", "ssl-certfile", "ssl-keyfile", "uds", *SEVERAL_NODES,
    }
)  # fmt: skip
SYNONYMS = {
    "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size",
    "dcp": "decode-context-parallel-size", "pcp": "prefill-context-parallel-size",
    "dpn": "data-parallel-rank", "dpr": "data-parallel-start-rank",
    "dpl": "data-parallel-size-local", "dpa": "data-parallel-address",
    "dpp": "data-parallel-rpc-port", "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb", "dpe": "data-parallel-external-lb",
    "dpm": "data-parallel-multi-port-external-lb", "ep": "enable-expert-parallel",
    "n": "nnodes", "r": "node-rank", "q": "quantization", "sc": "speculative-config",
    "dc": "diffusion-config", "cc": "compilation-config", "O": "optimization-level",
    "ac": "attention-config",
}  # fmt: skip
"""vLLM's short options (``engine/arg_utils.py`` of 0.32)."""
PARALLEL = ("data-parallel-size", "pipeline-parallel-size", "tensor-parallel-size")
ONE_NODE = "a replica is one engine on one node; the number of replicas is set by replicas"
INSTEAD = dict.fromkeys(SEVERAL_NODES, ONE_NODE)
KEY_ENV = "VLLM_API_KEY"
NO_HOST = "none.invalid"
VARIABLES = {
    "VLLM_HOST_IP": "127.0.0.1",  # without it vLLM asks an outside address for its network
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # A page of an allowed host could otherwise lead vLLM to any other.
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
}
KV_CACHE_SHARE = 4
"""Divisor of a CPU job's memory: this share (a quarter) becomes the KV cache."""
KV_CACHE_DEFAULT = 1 << 30


def launch(spec: ServiceSpec, place: EngineContext, weights: Weights) -> Launch:
    """Return the command that starts vLLM.

    A 503 of vLLM's /health means dead, not loading: vLLM listens only once the model is loaded.
    """
    given = arguments.given(spec, reserved=RESERVED, synonyms=SYNONYMS, instead=INSTEAD)
    _check_gpus(spec)
    tp = {"tensor-parallel-size": spec.resources.gpus} if spec.resources.gpus > 1 else {}
    ours: dict[str, EngineValue] = {
        "served-model-name": spec.name,
        **({"revision": spec.revision} if spec.revision and weights.repo else {}),
        **({} if any(key in given for key in PARALLEL) else tp),
        **_kv_cache(spec, given),
        # Without it vLLM refuses the adapters of lora-modules, after loading the model.
        **({"enable-lora": True} if spec.adapters else {}),
        **({"uds": place.socket} if place.socket else {"host": "127.0.0.1"}),
        **({} if place.socket else {"port": place.port or 0}),
    }
    return Launch(
        argv=(
            *_program(spec, place),
            *("serve", weights.path or weights.repo or ""),
            *arguments.flags(ours | given, negate=True),
            *_media(spec),
        ),
        env=environment(spec, place, weights, ours=VARIABLES, key_env=KEY_ENV),
        folders=("home", "tmp", "cache"),
        binds=binds(place, weights),
        probe=ReadinessProbe(),
        slots=None,
        address=listens(place),
        key_env=KEY_ENV,
    )


def gpus_used(spec: ServiceSpec) -> int | None:
    """Return the number of GPUs that an engine's own sizes take; None without such sizes."""
    given = arguments.given(spec, reserved=RESERVED, synonyms=SYNONYMS, instead=INSTEAD)
    sizes = [str(given.get(key, 1)) for key in PARALLEL]
    said = any(key in given for key in PARALLEL) and all(size.isdecimal() for size in sizes)
    return math.prod(map(int, sizes)) if said else None


def _check_gpus(spec: ServiceSpec) -> None:
    """Refuse more GPUs for the engine than its job has."""
    used = gpus_used(spec)
    if used is not None and used > spec.resources.gpus > 0:
        raise ConfigError(
            f"engine_args of {spec.name}: the sizes of {', '.join(PARALLEL)} take {used} GPUs, and"
            f" resources.gpus is {spec.resources.gpus}"
        )


def _program(spec: ServiceSpec, place: EngineContext) -> tuple[str, ...]:
    """Return vLLM's command; without a container, the interpreter's vLLM instead of PATH's."""
    if spec.container == "apptainer":
        return ("vllm",)
    return (interpreter(spec, place), "-m", "vllm.entrypoints.cli.main")


def _media(spec: ServiceSpec) -> tuple[str, ...]:
    """Return the option for the hosts of media, beside the sidecar's own check.

    vLLM takes an empty list for all hosts, so a name that never exists (RFC 2606) stands for none.
    """
    if "*" in spec.media_domains:
        return ()
    return ("--allowed-media-domains", *(spec.media_domains or (NO_HOST,)))


def _kv_cache(spec: ServiceSpec, given: dict[str, EngineValue]) -> dict[str, EngineValue]:
    """Return the size of a CPU job's KV cache, unless the model sets the size itself.

    By default vLLM on CPUs claims nearly all memory of the machine and refuses to share.
    """
    chosen = {"kv-cache-memory-bytes", "gpu-memory-utilization"} & given.keys()
    if spec.resources.gpus or chosen or "VLLM_CPU_KVCACHE_SPACE" in spec.env:
        return {}
    memory = (memory_mb(spec.resources) or 0) << 20
    return {"kv-cache-memory-bytes": memory // KV_CACHE_SHARE or KV_CACHE_DEFAULT}
