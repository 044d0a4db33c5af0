"""Model servers: command line, environment variables and readiness probe of each. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.engines import llamacpp, vllm, weights
from hpc.engines.common import GPU_MASKS, INHERITED, check
from hpc.engines.types import EngineContext, Launch, ReadinessProbe

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

__all__ = ["GPU_MASKS", "INHERITED", "EngineContext", "Launch", "ReadinessProbe", "launch"]

LAUNCHERS = {
    "vllm": vllm.launch,
    "llama-server": llamacpp.launch,
    "llama-cpp-python": llamacpp.launch_python,
}


def launch(spec: ServiceSpec, place: EngineContext) -> Launch:
    """Return the command, variables and probe that start a model's server.

    Args:
        spec: the model.
        place: the engine's surroundings on the node.

    Raises:
        ConfigError: the server does not accept the model or one of its engine arguments.
        EngineError: the run folder's path is too long for a Unix socket.
    """
    check(place)
    return LAUNCHERS[spec.server](spec, place, weights.of(spec))
