"""Model servers: from what was asked for to a command, its variables and its probe. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.engines import llamacpp, vllm, weights
from hpc.engines.common import INHERITED, check
from hpc.engines.types import Launch, Place, Probe

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

__all__ = ["INHERITED", "Launch", "Place", "Probe", "launch"]

LAUNCHERS = {
    "vllm": vllm.launch,
    "llama-server": llamacpp.launch,
    "llama-cpp-python": llamacpp.launch_python,
}


def launch(spec: ServiceSpec, place: Place) -> Launch:
    """Return how to start a model's server in a place.

    Raises:
        ConfigError: the model or its engine arguments are not what the server takes.
        EngineError: the run folder's path is too long for a Unix socket.
    """
    check(place)
    return LAUNCHERS[spec.server](spec, place, weights.of(spec))
