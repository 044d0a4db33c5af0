"""The schema of models.yaml and of the site file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hpc.config.fields import (
    Domains,
    Gpus,
    Line,
    Lines,
    Mib,
    Minutes,
    MisplacedError,
    Name,
    NodeFolder,
    NodeFolders,
    NodeMib,
    PortRange,
    SbatchValue,
    Strict,
    Variable,
)
from hpc.config.gateway_schema import Aliases, GatewayEntry
from hpc.config.resources import spelled
from hpc.gateway_policy import (
    Routing,  # noqa: TC001 - the same
)
from hpc.model import (
    Accelerator,
    Container,
    Engine,
    GpuOption,
    Scalar,
    Server,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


EngineArgument = Scalar | list[Scalar | dict[str, Any]] | dict[str, Any]


class ResourcesEntry(Strict):
    """The Slurm resources of a replica."""

    partition: Line | None = Field(None, description="Slurm partition")
    account: Line | None = Field(None, description="Slurm account that is charged")
    qos: Line | None = Field(None, description="Slurm quality of service")
    constraint: Line | None = Field(None, description="required node features")
    gpus: Gpus | None = Field(
        None, ge=0, description="GPUs per replica; 1 for vllm unless accelerator is none"
    )
    gpu_type: Line | None = Field(None, description="GRES type, as in gpu:h100:2")
    gpu_option: GpuOption | None = Field(
        None,
        description="sbatch option that asks for the GPUs; none: none asks, as on sites that hand"
        " out whole nodes",
    )
    cpus: int | None = Field(None, ge=1, description="CPUs per replica")
    cpus_per_gpu: int | None = Field(None, ge=1, description="CPUs per GPU, instead of `cpus`")
    mem: NodeMib | None = Field(
        None, description="memory per replica, such as 64G; 0 is all of the node"
    )
    mem_per_cpu: Mib | None = Field(None, description="memory per CPU, instead of `mem`")
    mem_per_gpu: Mib | None = Field(None, description="memory per GPU, instead of `mem`")
    time: Minutes | None = Field(None, description="walltime, such as 08:00:00")
    extra: dict[str, SbatchValue] | None = Field(
        None,
        description="further sbatch options, without dashes; yes is an option without a value",
    )

    @model_validator(mode="after")
    def _spelled(self) -> ResourcesEntry:
        # Assigned one by one: what no file says must not count as said.
        said = self.model_dump(exclude_unset=True)
        for key, value in spelled(said).items():
            if key not in said or said[key] != value:
                setattr(self, key, value)
        return self


class Settings(Strict):
    """The settings of a service that a site, a file, a variable or a flag may carry."""

    container: Container | None = Field(None, description="container runtime: apptainer or none")
    server: Server | None = Field(None, description="program that serves the model")
    image: Line | None = Field(
        None,
        description="container image: a SIF file, a sandbox folder, or an address that Apptainer"
        " fetches, such as docker://vllm/vllm-openai:v0.11.0",
    )
    accelerator: Accelerator | None = Field(
        None, description="GPU libraries: cuda (--nv), rocm (--rocm) or none"
    )
    replicas: int | None = Field(None, ge=1, le=1000, description="jobs that serve the model")
    resources: ResourcesEntry = Field(default_factory=ResourcesEntry)
    engine_args: dict[str, EngineArgument | None] | None = Field(
        None, description="the server's long options"
    )
    env: dict[Variable, str | None] | None = Field(
        None, description="the engine's environment variables"
    )
    binds: Lines | None = Field(None, description="Apptainer binds, SRC[:DEST[:ro]]")
    apptainer_args: Lines | None = Field(None, description="arguments of apptainer exec")
    media_domains: Domains | None = Field(
        None,
        description="hosts that the engine may fetch images, audio and video from for a client;"
        " '*' is all; default: none, so that media come inside a request, as data: URLs",
    )
    setup: Lines | None = Field(None, description="shell lines at the start of the job")
    hf_home: Line | None = Field(None, description="Hugging Face cache")
    python: Line | None = Field(None, description="interpreter of an engine without a container")
    load_timeout: int | None = Field(None, ge=1, description="seconds from engine start to ready")
    grace: int | None = Field(None, ge=5, description="seconds to drain before the walltime ends")
    max_restarts: int | None = Field(None, ge=0, description="requeues at the walltime's end")
    replica_tls: bool | None = Field(
        None, description="TLS between the gateway and the model's replicas"
    )
    replica_ports: PortRange | None = Field(
        None, description="ports of the replicas, LOW-HIGH; default: any free port"
    )
    interface: Line | None = Field(
        None,
        description="network interface of the replicas, or a network such as 10.1.0.0/16;"
        " default: all of the node's",
    )
    tmp: NodeFolder | None = Field(
        None,
        description="folder of the compute node for private files, such as /scratch/$USER, with"
        " variables of the job; default: /tmp",
    )
    node_paths: NodeFolders | None = Field(
        None,
        description="folders that compute nodes alone have: files in them are looked for in the"
        " job, not at submission",
    )


class ModelEntry(Settings):
    """An entry of models.yaml: a service to run, or a static backend."""

    name: Name = Field(description="the model's name at the gateway")
    backend: Engine = Field(description="vllm or llamacpp")
    format: Literal["chat_completions"] = Field("chat_completions", description="API of the server")
    backend_url: str | None = Field(
        None, pattern=r"^https?://[^\s/]+(/[^\s]*)?$", description="address of a static backend"
    )
    api_key_env: Variable | None = Field(None, description="variable with a static backend's key")
    model: Line | None = Field(None, description="Hugging Face id, GGUF file or model folder")
    revision: Line | None = Field(None, description="commit or tag on Hugging Face")
    fallback: Aliases = Field(
        default_factory=list, description="models tried in order while this one cannot serve"
    )
    routing: Routing | None = Field(
        None, description="how a replica is chosen; default: gateway.routing"
    )
    max_tokens: int | None = Field(
        None, ge=1, description="most tokens that all answers of a request may have"
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="most tokens of a prompt, 4 bytes of text each"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> ModelEntry:
        if self.model is None and self.backend_url is None:
            raise ValueError(
                f"model {self.name!r} needs 'model' (to run it) or 'backend_url' (where it runs)"
            )
        if self.model is not None and self.backend_url is not None:
            raise ValueError(f"model {self.name!r} has both 'model' and 'backend_url'; keep one")
        return self._check_unused()

    def _check_unused(self) -> ModelEntry:
        """Refuse keys without effect, such as the resources of a static backend."""
        kind = "static backends" if self.model else "services that hpc-serve runs"
        why = "no 'backend_url'" if self.model else "a 'backend_url'"
        for key in STATIC_ONLY if self.model else SERVED_ONLY:
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise MisplacedError((key,), f"is for {kind}, and {self.name!r} has {why}")
        return self


SERVED_ONLY = tuple(Settings.model_fields)
"""Keys of an entry that say nothing about a server of somebody else."""
STATIC_ONLY = ("api_key_env",)
"""Keys of an entry that say nothing about a service of ours."""


class ModelsFileSchema(Strict):
    """The whole of models.yaml."""

    # A file of a later format is refused, not misread.
    version: Literal[1] = Field(1, description="format of this file")
    models: list[ModelEntry] = Field(default_factory=list)
    gateway: GatewayEntry = Field(default_factory=GatewayEntry)

    @model_validator(mode="after")
    def _consistent(self) -> ModelsFileSchema:
        seen: set[str] = set()
        for index, entry in enumerate(self.models):
            if entry.name in seen:
                at = ("models", index, "name")
                raise MisplacedError(at, f"the model {entry.name!r} is given twice")
            seen.add(entry.name)
        check(self.models, self.gateway)
        return self


class SiteFileSchema(Settings):
    """The site file: settings of all services of one site."""

    apptainer: Line = Field("apptainer", description="Apptainer's program")
    templates: Line | None = Field(None, description="folder of templates to prefer to the bundled")
    debian_mirror: Line | None = Field(None, description="mirror for image builds")
    definition: dict[str, str] = Field(
        default_factory=dict, description="variables of image definitions"
    )
    gateway_port: int = Field(8081, ge=0, le=65535, description="port of the gateway")


def check(models: Sequence[ModelEntry], gateway: GatewayEntry) -> None:
    """Check the contradictions between entries, which no single entry can see.

    Args:
        models: the entries under ``models``.
        gateway: the entry ``gateway``.

    Raises:
        MisplacedError: two entries contradict each other; names the location.
    """
    names = {entry.name for entry in models}
    for alias, target in gateway.aliases.items():
        at = ("gateway", "aliases", alias)
        if alias in names:
            raise MisplacedError(at, f"there is a model {alias!r}, which an alias would hide")
        if target in gateway.aliases:
            raise MisplacedError(at, f"{target!r} is an alias itself; name the model")
    for index, entry in enumerate(models):
        _check_fallback(("models", index, "fallback"), entry, gateway)


def _check_fallback(at: tuple[str | int, ...], entry: ModelEntry, gateway: GatewayEntry) -> None:
    seen = {entry.name}
    for name in entry.fallback:
        model = gateway.aliases.get(name, name)
        if model == entry.name:
            raise MisplacedError(at, f"the model {entry.name!r} cannot be its own fallback")
        if model in seen:
            raise MisplacedError(at, f"{name!r} is given twice")
        seen.add(model)
