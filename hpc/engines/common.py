"""Environment variables, bind mounts and addresses common to all engines."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hpc.engines.weights import SPLIT_GGUF
from hpc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpc.engines.types import Address, EngineContext
    from hpc.engines.weights import Weights
    from hpc.model import Resources, ServiceSpec

INHERITED = (
    "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "ALL_PROXY", "all_proxy",
)  # fmt: skip
"""Variables of the job that a download of weights may need."""
GPU_MASKS = (
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
)  # fmt: skip
"""Variables that leave an engine some of the node's GPUs; an engine gets one at most."""
GPU_REQUEST = re.compile(
    r"gpus(-per-\w+)?=(?!0$).+|(gres|tres-per-\w+)=(.*,)?(gres[/:])?(gpu|shard|mps)([:=,].*)?"
)
"""An option of ``resources.extra`` that asks for GPUs, or for a part of one."""
SOCKET_BYTES = 107
"""The longest path that a Unix socket can have."""
ZMQ_NAME_BYTES = 41
"""Length of the path ``/tmp/UUID`` that vLLM appends to the run folder for its own sockets."""


def check(place: EngineContext) -> None:
    """Refuse a run folder whose sockets could not be bound.

    Raises:
        EngineError: a socket's path would be longer than Linux allows (107 bytes).
    """
    longest = max(len(place.socket or ""), len(place.run_dir) + ZMQ_NAME_BYTES)
    if longest > SOCKET_BYTES:
        raise EngineError(
            f"the run folder {place.run_dir} is too long a path for a Unix socket",
            hint="name a folder with a shorter path by 'tmp'",
        )


def listens(place: EngineContext) -> Address:
    """Return the kind of the engine's address."""
    return "unix" if place.socket else "tcp"


def interpreter(spec: ServiceSpec, place: EngineContext) -> str:
    """Return the Python interpreter of an engine: the image's, or the node's."""
    return "python3" if spec.container == "apptainer" else spec.python or place.python


def environment(
    spec: ServiceSpec,
    place: EngineContext,
    weights: Weights,
    *,
    ours: Mapping[str, str],
    key_env: str,
) -> dict[str, str]:
    """Return an engine's variables; the model's ``env`` overrides all but the engine's key.

    Args:
        spec: the model.
        place: the engine's surroundings on the node.
        weights: the source of the model's weights.
        ours: variables of this engine beyond the common ones.
        key_env: name of the variable for the engine's key.
    """
    offline = weights.repo is None or place.weights_cached
    cache = f"{place.run_dir}/cache"
    found = {
        "HF_HOME": place.hf_home,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": f"{place.run_dir}/tmp",  # noqa: S108 - a private folder
        **_devices(spec, place),
        **({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if offline else place.inherited),
    }
    if spec.container == "apptainer":
        found |= {"XDG_CACHE_HOME": cache, "LANG": "C.UTF-8"}
        if weights.repo is None or place.hub:
            found["HF_HOME"] = f"{cache}/huggingface"
    if weights.repo is not None:  # or the shell's own would win over hf_home
        found["HF_HUB_CACHE"] = place.hub or f"{place.hf_home}/hub"
    # The key comes last: a model's env must not open the engine to the node's other users.
    return found | dict(ours) | dict(spec.env) | {key_env: place.secret}


def _devices(spec: ServiceSpec, place: EngineContext) -> dict[str, str]:
    """Pass the job's GPUs on to the engine; without GPUs in the job, hide the node's GPUs.

    One mask only: on ROCm the entries of a second one would count among the GPUs that the first
    leaves. A model's own mask therefore takes the place of the job's.
    """
    if any(name in spec.env for name in GPU_MASKS):
        return {}
    wanted = spec.resources.gpus > 0 or any(map(GPU_REQUEST.fullmatch, _options(spec.resources)))
    if wanted and not place.devices:
        return {}
    name = "CUDA_VISIBLE_DEVICES"
    if spec.accelerator == "rocm":
        # HIP reads numbers only; ROCR reads UUIDs too, but Ray refuses it.
        numbers = all(device.isdigit() for device in place.devices)
        name = "HIP_VISIBLE_DEVICES" if numbers else "ROCR_VISIBLE_DEVICES"
    return {name: ",".join(place.devices) if wanted else ""}


def _options(resources: Resources) -> list[str]:
    return [f"{option}={value}" for option, value in resources.extra.items()]


def memory_mb(resources: Resources) -> int | None:
    """Return the memory of the job in MiB; None if the scheduler alone knows."""
    if resources.mem_per_cpu is not None:
        return resources.mem_per_cpu * resources.cpus
    if resources.mem_per_gpu is not None:
        return resources.mem_per_gpu * resources.gpus
    return resources.mem_mb or None


def binds(
    place: EngineContext, weights: Weights, *, scripts: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the bind mounts of an engine's container.

    Args:
        place: the engine's surroundings; the run folder is bound read-write.
        weights: a path is bound read-only; for a repository the cache is bound read-write.
        scripts: files that the image does not hold, bound read-only.
    """
    writable, readable = [place.run_dir], []
    if weights.path is None:
        writable += [place.hub or place.hf_home, *place.reached]
    else:
        readable += [model_root(weights.path), *place.reached]
    writable += place.written
    readable += [*place.readable, *scripts]
    once = [path for path in dict.fromkeys(readable) if path not in writable]
    written = dict.fromkeys(writable)
    return (*(_bind(path) for path in written), *(_bind(path, ",ro") for path in once))


def model_root(path: str) -> str:
    """Return the folder to bind for a model: links and split files lead out of the path itself."""
    pure = PurePosixPath(path)
    if "snapshots" in pure.parts[:-1]:
        return str(PurePosixPath(*pure.parts[: pure.parts.index("snapshots")]))
    return str(pure.parent) if SPLIT_GGUF.search(pure.name) else path


def _bind(path: str, mode: str = "") -> str:
    """Return a bind in the CSV form of Apptainer's --mount, so that a path may hold colons."""
    fields = [f"source={path}", f"destination={path}"]
    quoted = [f'"{field.replace(chr(34), 2 * chr(34))}"' for field in fields]
    return f"type=bind,{','.join(quoted)}{mode}"
