"""What all engines share: variables, binds and where they listen."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hpc.engines.weights import SPLIT_GGUF
from hpc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpc.engines.types import Address, Place
    from hpc.engines.weights import Weights
    from hpc.model import ServiceSpec

INHERITED = (
    "HF_TOKEN", "HF_ENDPOINT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""Variables of a job that a download of weights may need."""
SOCKET_BYTES = 107
"""The longest path that a Unix socket can have."""
ZMQ_NAME_BYTES = 41
"""What vLLM appends to the run folder for the sockets between its processes: tmp/UUID."""


def check(place: Place) -> None:
    """Refuse a run folder whose sockets could not be bound.

    Raises:
        EngineError: a socket's path is longer than Linux allows.
    """
    longest = max(len(place.socket or ""), len(place.run_dir) + ZMQ_NAME_BYTES)
    if longest > SOCKET_BYTES:
        raise EngineError(
            f"the run folder {place.run_dir} is too long a path for a Unix socket",
            hint="set TMPDIR to a shorter folder of the node",
        )


def listens(place: Place) -> Address:
    """Return what kind of address the engine has."""
    return "unix" if place.socket else "tcp"


def interpreter(spec: ServiceSpec, place: Place) -> str:
    """Return the Python of an engine: the image's own, or the node's."""
    return "python3" if spec.container == "apptainer" else spec.python or place.python


def environment(
    spec: ServiceSpec,
    place: Place,
    weights: Weights,
    *,
    ours: Mapping[str, str],
    key_env: str,
) -> dict[str, str]:
    """Return an engine's variables; the model's own ``env`` wins, but not over its key.

    Args:
        spec: the model.
        place: where it runs.
        weights: where its weights come from.
        ours: what this engine needs beyond the common ones.
        key_env: the variable that takes its key.
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
        if weights.repo is None:
            found["HF_HOME"] = f"{cache}/huggingface"
    return found | dict(ours) | dict(spec.env) | {key_env: place.secret}


def _devices(spec: ServiceSpec, place: Place) -> dict[str, str]:
    """Hand on the GPUs of the job; without any, hide those of the node."""
    if spec.resources.gpus and not place.devices:
        return {}
    name = "HIP_VISIBLE_DEVICES" if spec.accelerator == "rocm" else "CUDA_VISIBLE_DEVICES"
    return {name: ",".join(place.devices) if spec.resources.gpus else ""}


def binds(place: Place, weights: Weights, *, scripts: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what a container must see of the node.

    Args:
        place: where the engine runs; its run folder is bound read-write.
        weights: a path is bound read-only, a repository means the cache, read-write.
        scripts: files that the image does not hold.
    """
    writable = [place.run_dir, *([place.hf_home] if weights.path is None else [])]
    readable = [path for path in (_model_root(weights.path), *scripts) if path]
    return (*(_bind(path) for path in writable), *(_bind(path, ",ro") for path in readable))


def _model_root(path: str | None) -> str | None:
    """Return what must be bound for a model: links and split files lead out of it."""
    if path is None:
        return None
    pure = PurePosixPath(path)
    if "snapshots" in pure.parts[:-1]:
        return str(PurePosixPath(*pure.parts[: pure.parts.index("snapshots")]))
    return str(pure.parent) if SPLIT_GGUF.search(pure.name) else path


def _bind(path: str, mode: str = "") -> str:
    """Return a bind as Apptainer's --mount reads it: CSV, so that colons and commas may be."""
    fields = [f"source={path}", f"destination={path}"]
    quoted = [f'"{field.replace(chr(34), 2 * chr(34))}"' for field in fields]
    return f"type=bind,{','.join(quoted)}{mode}"
