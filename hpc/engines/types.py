"""What an engine is told about its node, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = Literal["unix", "tcp"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica's engine runs.

    Attributes:
        socket: Unix socket to listen on, ending in ``.sock``; None listens on ``port``.
        port: TCP port of 127.0.0.1, where there is no socket.
        secret: the engine's own key, known to its node only.
        devices: entries of CUDA_VISIBLE_DEVICES as the scheduler gave them; may be empty.
        weights_cached: whether a Hugging Face model is whole in ``hf_home``.
        hf_home: Hugging Face cache, absolute; must exist for a model of Hugging Face.
        run_dir: private folder of this start, absolute and short; see ``Launch.folders``.
        gguf_server: path of gguf_api_server.py on the node.
        python: interpreter of an engine without a container.
        inherited: those variables of the job that ``INHERITED`` names.
    """

    socket: str | None
    port: int | None
    secret: str
    devices: tuple[str, ...]
    weights_cached: bool
    hf_home: str
    run_dir: str
    gguf_server: str = ""
    python: str = "python3"
    inherited: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """How to see that an engine is ready.

    Attributes:
        path: GET answers 200 there when it is.
        loading_statuses: answers that mean "not yet", as a refused connection does.
    """

    path: str = "/health"
    loading_statuses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start an engine.

    Attributes:
        argv: the program, as its container or the node's environment knows it; no secret in it.
        env: every variable that it gets in a container; the engine's key is one of them.
        folders: folders to make in ``Place.run_dir``, mode 0700.
        binds: what the container sees, as ``hpc.apptainer.exec_argv`` takes it.
        probe: how to see that it is ready.
        slots: requests served at once; None where the engine batches as it likes.
        address: whether it listens on a Unix socket or on 127.0.0.1.
        key_env: the variable of ``env`` that holds the engine's key.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folders: tuple[str, ...]
    binds: tuple[str, ...]
    probe: Probe
    slots: int | None
    address: Address
    key_env: str
