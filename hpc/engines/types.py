"""The surroundings of an engine on its node, and the command that starts the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Address = Literal["unix", "tcp"]


@dataclass(frozen=True, slots=True)
class EngineContext:
    """The surroundings of a replica's engine on its node.

    Attributes:
        socket: Unix socket to listen on, ending in ``.sock``; None means ``port``.
        port: TCP port on 127.0.0.1 for an engine without a socket.
        secret: the engine's own key, known on this node only.
        devices: entries of CUDA_VISIBLE_DEVICES as the scheduler set them; may be empty.
        weights_cached: whether ``hf_home`` holds the Hugging Face model completely.
        hf_home: Hugging Face folder, absolute; must exist for a Hugging Face model.
        hub: folder of downloaded repositories where it is not ``hub`` of ``hf_home``, or "".
        snapshot: folder of the model's revision in the cache, or "".
        reached: files and folders to which links of the weights lead.
        readable: files and folders of engine arguments.
        written: the same, for an engine that writes there.
        run_dir: private folder of this start, absolute and short; see ``Launch.folders``.
        gguf_server: path of gguf_api_server.py on the node.
        python: interpreter of an engine without a container.
        inherited: the job's variables that ``INHERITED`` names.
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
    hub: str = ""
    snapshot: str = ""
    reached: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    inherited: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """The HTTP request that shows whether an engine is ready.

    Attributes:
        path: path of the GET request; a ready engine answers 200.
        loading_statuses: answers that mean "not yet", as a refused connection does.
    """

    path: str = "/health"
    loading_statuses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """The command of an engine and everything around the command.

    Attributes:
        argv: the program, as its container or the node's environment knows it; holds no secret.
        env: every variable of the engine, its key included; a container gets no others.
        folders: folders to make in ``Place.run_dir``, mode 0700.
        binds: bind mounts of the container, as ``hpc.apptainer.exec_argv`` takes them.
        probe: the readiness probe.
        slots: requests served at once; None for an engine that batches without a fixed limit.
        address: whether the engine listens on a Unix socket or on 127.0.0.1.
        key_env: the variable in ``env`` that holds the engine's key.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folders: tuple[str, ...]
    binds: tuple[str, ...]
    probe: ReadinessProbe
    slots: int | None
    address: Address
    key_env: str
