"""The nouns of the project: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Engine = Literal["vllm", "llamacpp"]
Server = Literal["vllm", "llama-server", "llama-cpp-python"]
Container = Literal["apptainer", "none"]
Accelerator = Literal["cuda", "rocm", "none"]
Scalar = str | int | float | bool


class JobState(Enum):
    """What the scheduler says of a job; UNKNOWN is "no answer", never "gone"."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    ENDING = "ENDING"
    DONE = "DONE"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    GONE = "GONE"


class Phase(Enum):
    """What a replica is doing, as it or its scheduler reports."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica asks of the scheduler.

    Attributes:
        partition: Slurm partition; None is the site's default.
        gpus: GPUs on the node.
        gpu_type: GRES type, as in ``gpu:h100:2``; None takes any.
        cpus: CPUs of the one task.
        mem_mb: memory in MiB; None is the site's default.
        time_min: walltime in minutes; None is the partition's default, 0 is UNLIMITED.
        extra: further sbatch options, long names without dashes; "" for a bare flag.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    cpus: int = 1
    mem_mb: int | None = None
    time_min: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A model to serve, with every default already resolved.

    Attributes:
        name: the service, and the model's name at the gateway.
        engine: the family of servers.
        server: the program that serves.
        model: Hugging Face id, or absolute path of a GGUF file or a model folder.
        container: "apptainer", or "none" to run the engine from the node's environment.
        image: absolute path of the SIF; None only without a container.
        accelerator: which driver libraries Apptainer brings in (``--nv``, ``--rocm``).
        replicas: how many jobs serve it.
        revision: commit or tag of a Hugging Face model.
        engine_args: the server's own long options without dashes; True is a bare flag.
        env: variables the engine gets, and nothing else of the job's.
        binds: Apptainer binds, ``SRC[:DEST[:ro]]``.
        apptainer_args: further arguments of ``apptainer exec``.
        setup: shell lines of the job before anything runs, such as ``module load``.
        hf_home: Hugging Face cache, absolute; None is the user's own.
        python: interpreter of an engine without a container; None is the job's own.
        load_timeout_s: seconds from engine start to ready.
        grace_s: seconds before the walltime at which the replica drains.
        max_restarts: requeues at walltime before the service ends.
    """

    name: str
    engine: Engine
    server: Server
    model: str
    container: Container = "apptainer"
    image: str | None = None
    accelerator: Accelerator = "none"
    replicas: int = 1
    resources: Resources = field(default_factory=Resources)
    revision: str | None = None
    engine_args: Mapping[str, Scalar] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[str, ...] = ()
    apptainer_args: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    hf_home: str | None = None
    python: str | None = None
    load_timeout_s: int = 1800
    grace_s: int = 90
    max_restarts: int = 100
    schema: int = 1


@dataclass(frozen=True, slots=True)
class JobHandle:
    """Where a job can be found again.

    Attributes:
        job_id: Slurm's id, or the pid of a local job.
        cluster: "slurm" or "local".
        folder: submitit's folder with script, pickles and logs, absolute.
        submitted_at: Unix time in seconds.
    """

    job_id: str
    cluster: Literal["slurm", "local"]
    folder: str
    submitted_at: float = 0.0
    schema: int = 1


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One answer of the scheduler about one job; times are Unix seconds.

    Attributes:
        restarts: times that it was requeued, or None where the scheduler does not say.
    """

    state: JobState
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    start_at: float | None = None
    end_at: float | None = None
    exit_code: int | None = None
    restarts: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a replica says of itself; written by its node only.

    Attributes:
        model: the name at the gateway.
        host: name of the node, as its cluster resolves it.
        port: the sidecar's TCP port; 0 until it is bound.
        ends_at: Unix time of the walltime, or None.
        beat_at: Unix time of the last heartbeat.
        cause: one sentence on why it failed, or None.
        phases: Unix time at which each phase began, by phase name.
        slots: requests served at once, or None where the engine batches.
        restarts: times that the job had been requeued when its node said so, or None outside Slurm.
    """

    service: str
    replica: int
    model: str
    host: str
    port: int
    phase: Phase
    job_id: str
    ends_at: float | None
    beat_at: float
    cause: str | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    slots: int | None = None
    restarts: int | None = None
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Reload:
    """What became of models.yaml in a running gateway; times are Unix seconds.

    Attributes:
        read_at: when the last reading that somebody asked for, or that found news, began.
        taken_at: when the models in force were taken over.
        added: models that came with them.
        removed: models that went.
        changed: models that are served otherwise than before.
        refused: why the file as it is now is not in force, or None.
        refused_at: when that was first found.
        warnings: what in force leads nowhere, such as an alias of a model that nobody serves.
    """

    read_at: float = 0.0
    taken_at: float = 0.0
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    refused: str | None = None
    refused_at: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """Where one host's gateway listens; written by the gateway only.

    Attributes:
        hostname: the machine it runs on.
        host: address it is bound to.
        port: TCP port.
        pid: its process, valid on that machine only.
        beat_at: Unix time of the last heartbeat.
        models_file: the models.yaml that it reads, or None.
        reload: what became of its last readings of that.
    """

    hostname: str
    host: str
    port: int
    pid: int
    started_at: float
    beat_at: float
    version: str
    models_file: str | None = None
    reload: Reload = field(default_factory=Reload)
    schema: int = 1
