"""The shared records of the project: frozen values without behaviour or I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Engine = Literal["vllm", "llamacpp"]
StaticEngine = Literal["vllm", "llamacpp", "sglang", "openai"]
"""The engine of a server that runs outside hpc-serve; ``openai`` is any other with that API."""
Server = Literal["vllm", "llama-server", "llama-cpp-python"]
Container = Literal["apptainer", "none"]
Accelerator = Literal["cuda", "rocm", "none"]
GpuOption = Literal["gres", "gpus-per-node", "gpus", "gpus-per-task", "none"]
Scalar = str | int | float | bool
EngineValue = Scalar | tuple[Scalar, ...]
FILE_OPTIONS = frozenset(
    {
        "chat-template", "chat-template-file", "config", "control-vector", "generation-config",
        "grammar-file", "hf-config-path", "json-schema-file", "lora", "lora-modules", "mmproj",
        "model-draft", "reasoning-parser-plugin", "spec-draft-model", "tokenizer",
        "tool-parser-plugin",
    }
)  # fmt: skip
"""Options of the servers whose value is a file, or may be."""
IMAGE_SCHEMES = (
    "docker://", "oras://", "library://", "shub://", "https://", "http://",
    "docker-daemon:", "docker-archive:", "oci:", "oci-archive:",
)  # fmt: skip
"""Beginnings of an image that Apptainer fetches or converts, in the place of a path."""


class JobState(Enum):
    """The scheduler's state of a job; UNKNOWN is "no answer", never "gone"."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    ENDING = "ENDING"
    DONE = "DONE"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    GONE = "GONE"

    @property
    def over(self) -> bool:
        """Whether the job has ended for certain."""
        return self in _OVER

    @property
    def alive(self) -> bool:
        """Whether the job may still run; an unknown job may."""
        return self not in _OVER


_OVER = frozenset({JobState.DONE, JobState.FAILED, JobState.GONE})


class Phase(Enum):
    """The phase of a replica, as its node or its scheduler reports."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    LOADING = "LOADING"
    WARMING = "WARMING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Resources:
    """The scheduler's resources of a replica.

    Attributes:
        partition: Slurm partition; None is the site's default.
        account: Slurm account; None is the user's default.
        qos: quality of service, or None.
        constraint: required node features, or None.
        gpus: GPUs on the node.
        gpu_type: GRES type, as in ``gpu:h100:2``; None takes any.
        gpu_option: sbatch option that asks for the GPUs; "none" asks for none, as on sites that
            hand out whole nodes.
        cpus: CPUs of the single task.
        cpus_per_gpu: CPUs for each GPU, requested instead of ``cpus``, their sum; or None.
        mem_mb: memory in MiB; 0 is all of the node, None is the site's default.
        mem_per_cpu: MiB for each CPU, instead of ``mem_mb``, or None.
        mem_per_gpu: MiB for each GPU, instead of ``mem_mb``, or None.
        time_min: walltime in minutes; None is the partition's default, 0 is UNLIMITED.
        extra: further sbatch options, long names without dashes; "" for a bare flag.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    gpu_type: str | None = None
    gpu_option: GpuOption = "gres"
    cpus: int = 1
    cpus_per_gpu: int | None = None
    mem_mb: int | None = None
    mem_per_cpu: int | None = None
    mem_per_gpu: int | None = None
    time_min: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A model to serve, with every default already resolved.

    Attributes:
        name: the service, and the model's name at the gateway.
        engine: the family of servers.
        server: the server program.
        model: Hugging Face id, or absolute path of a GGUF file or a model folder.
        container: "apptainer", or "none" to run the engine from the node's environment.
        image: absolute path of a SIF or sandbox folder, or an address of ``IMAGE_SCHEMES``; None
            only without a container.
        accelerator: driver libraries that Apptainer brings in (``--nv``, ``--rocm``).
        replicas: number of jobs that serve the model.
        resources: resources of each replica.
        revision: commit or tag of a Hugging Face model.
        engine_args: the server's own long options without dashes; True is a bare flag, several
            values are a tuple.
        env: variables of the engine; no other variable of the job is passed on.
        binds: Apptainer binds, ``SRC[:DEST[:ro]]``.
        apptainer_args: further arguments of ``apptainer exec``.
        adapters: names of the LoRA adapters in ``engine_args``, models at the gateway too.
        media_domains: hosts that the engine may fetch images, audio and video from; "*" is all.
        setup: shell lines at the start of the job, such as ``module load``.
        hf_home: Hugging Face cache, absolute; None is the user's own.
        python: interpreter of an engine without a container; None is the job's own.
        load_timeout_s: seconds from engine start to ready.
        grace_s: seconds before the walltime at which the replica drains.
        max_restarts: requeues at walltime before the service ends.
        replica_tls: whether the connections between gateway and replicas use TLS.
        replica_ports: lowest and highest port of the sidecars; None takes any free port.
        interface: network interface or network of the sidecars; None is all of the node's.
        tmp: folder of the node for private files of a start, with variables of the job; None is
            /tmp.
        node_paths: folders that compute nodes alone have; not looked at elsewhere.
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
    engine_args: Mapping[str, EngineValue] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    binds: tuple[str, ...] = ()
    apptainer_args: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    media_domains: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    hf_home: str | None = None
    python: str | None = None
    load_timeout_s: int = 1800
    grace_s: int = 90
    max_restarts: int = 100
    replica_tls: bool = False
    replica_ports: tuple[int, int] | None = None
    interface: str | None = None
    tmp: str | None = None
    node_paths: tuple[str, ...] = ()
    schema: int = 1


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job without a service, such as an image build.

    Attributes:
        name: name of the job and its folder.
        resources: resources to request.
        setup: shell lines before the task.
        restarts: requeues at walltime; 0 also forbids Slurm to start the job again.
        grace_s: seconds before the walltime at which the task gets SIGUSR2.
        count: number of runs, from 1; on Slurm more than one makes an array.
    """

    name: str
    resources: Resources
    setup: tuple[str, ...] = ()
    restarts: int = 0
    grace_s: int = 90
    count: int = 1


@dataclass(frozen=True, slots=True)
class JobHandle:
    """The identity of a job, for finding the job again.

    Attributes:
        job_id: Slurm's id, or the pid of a local job.
        cluster: "slurm" or "local".
        folder: submitit's folder with script, pickles and logs, absolute.
        submitted_at: Unix time in seconds.
        name: the job's own name in Slurm, shared with no other job; "" matches any name.
        slurm_cluster: name of the Slurm cluster that holds the job, or "" if unknown.
        named_cluster: whether sbatch was told the cluster's name, as Slurm's other programs must.
    """

    job_id: str
    cluster: Literal["slurm", "local"]
    folder: str
    submitted_at: float = 0.0
    name: str = ""
    slurm_cluster: str = ""
    named_cluster: bool = False
    schema: int = 1

    @property
    def key(self) -> str:
        """The job's identity among all jobs: two clusters, or two machines, share numbers."""
        return f"{self.folder}/{self.job_id}"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """An answer of the scheduler about a job; times are Unix seconds.

    Attributes:
        restarts: times that it was requeued, or None where the scheduler does not say.
        blocked: whether the waiting job starts only after somebody changes the job or a limit.
        name: the job's name at the scheduler, or None where the scheduler does not say.
    """

    state: JobState
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    start_at: float | None = None
    end_at: float | None = None
    exit_code: int | None = None
    restarts: int | None = None
    blocked: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A replica's record of itself; written by its node only.

    Attributes:
        service: name of the service.
        replica: number of the replica, from 0.
        model: the model's name at the gateway.
        host: name or address of the node, the first to try.
        port: the sidecar's TCP port; 0 until bound.
        phase: current phase.
        job_id: id of the replica's job.
        ends_at: Unix time of the walltime, or None.
        beat_at: Unix time of the last heartbeat.
        cause: the reason of a failure in one sentence, or None.
        phases: Unix time at which each phase began, by phase name.
        slots: requests served at once, or None for a batching engine.
        restarts: times that Slurm had requeued the job at this record, or None outside Slurm.
        certificate: PEM of the sidecar's certificate, or None without TLS.
        addresses: further names and addresses of the node, in the order to try.
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
    certificate: str | None = None
    addresses: tuple[str, ...] = ()
    schema: int = 1


@dataclass(frozen=True, slots=True)
class Reload:
    """The outcome of a running gateway's readings of models.yaml; times are Unix seconds.

    Attributes:
        read_at: begin of the last reading that was requested or that found changes.
        taken_at: time at which the current models were adopted.
        added: models added at that time.
        removed: models removed at that time.
        changed: models changed at that time.
        still_served: models that left the file at that time, while their submitted jobs go on.
        not_submitted: services added at that time that no job serves.
        refused: the reason why the present file is not in use, or None.
        refused_at: time at which the present file was first refused.
        warnings: entries in use without effect, such as an alias of an unknown model.
    """

    read_at: float = 0.0
    taken_at: float = 0.0
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    still_served: tuple[str, ...] = ()
    not_submitted: tuple[str, ...] = ()
    refused: str | None = None
    refused_at: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> str:
        """The changes in words, such as ``added a, b; removed c``; empty without a change."""
        kinds = {
            "added": self.added,
            "added, served after 'hpc-serve submit':": self.not_submitted,
            "removed": self.removed,
            "removed from the file, served until 'hpc-serve stop':": self.still_served,
            "changed": self.changed,
        }
        return "; ".join(f"{verb} {', '.join(names)}" for verb, names in kinds.items() if names)


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """The address of a machine's gateway; written by the gateway only.

    Attributes:
        hostname: name of the machine.
        host: address that the gateway listens on.
        port: TCP port.
        pid: the gateway's process id, valid on that machine only.
        started_at: Unix time of the start.
        beat_at: Unix time of the last heartbeat.
        version: version of hpc-serve.
        models_file: the models.yaml in use, or None.
        reload: outcome of the last readings of models.yaml.
        proof_secret: secret of this start, by which the gateway proves itself; never printed.
        socket: path of the gateway's Unix socket, or None.
        process: identity of the gateway's process, by ``hpc.processes.by_pid``.
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
    proof_secret: str = field(default="", repr=False)
    socket: str | None = None
    process: str = ""
    schema: int = 1
