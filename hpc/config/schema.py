"""The schema of models.yaml and of the site file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hpc.config.fields import (
    Alias,
    Domains,
    Gpus,
    HealthPath,
    Line,
    Lines,
    Mib,
    Minutes,
    MisplacedError,
    NodeFolder,
    NodeFolders,
    NodeMib,
    PortRange,
    SbatchValue,
    Strict,
    Urls,
    Variable,
    check_name,
)
from hpc.config.gateway_schema import Aliases, GatewayEntry
from hpc.config.resources import spelled
from hpc.gateway_policy import (
    Routing,  # noqa: TC001 - the same
)
from hpc.model import (
    Accelerator,
    Container,
    GpuOption,
    Scalar,
    Server,
    StaticEngine,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN_ENGINES = ("vllm", "llamacpp")
STATIC_ONLY = ("api_key_env", "served_model", "ca", "health")
"""Keys that say how to reach a static backend."""
SHARED_POLICY = ("fallback", "routing", "max_tokens", "max_prompt_tokens")
"""Keys on which all entries of one name must agree."""


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


SERVED_ONLY = tuple(Settings.model_fields)
"""Keys that say how to run a service."""


class ModelEntry(Settings):
    """An entry of models.yaml: a service to run, or a static backend."""

    name: Alias = Field(description="the model's name at the gateway")
    backend: StaticEngine = Field(description="engine; openai is any other")
    format: Literal["chat_completions"] = Field("chat_completions", description="API of the server")
    backend_url: Urls = Field(
        default_factory=list, description="address of a static backend, or of several alike"
    )
    api_key_env: Variable | None = Field(None, description="variable with a static backend's key")
    served_model: Line | None = Field(None, description="the model's name at a static backend")
    ca: Line | None = Field(
        None, description="PEM file of the authority that signs a static backend's certificate"
    )
    health: HealthPath = Field(
        "/v1/models", description="path at which a static backend is asked, or no"
    )
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
        if self.model is None and not self.backend_url:
            raise ValueError(
                f"model {self.name!r} needs 'model' (to run it) or 'backend_url' (where it runs)"
            )
        if self.model is None:
            self._check_static()
            return self
        if self.backend_url:
            raise ValueError(
                f"model {self.name!r} has both 'model' and 'backend_url'; keep one. The model's"
                " name at that address is 'served_model'"
            )
        self._check_service()
        return self

    def _check_static(self) -> None:
        if self.ca is not None and not all(map(_is_https, self.backend_url)):
            raise MisplacedError(("ca",), "a certificate needs an address with https://")
        self._refuse(SERVED_ONLY, "services that hpc-serve runs", "a")

    def _check_service(self) -> None:
        try:
            check_name(self.name)
        except ValueError as error:
            raise MisplacedError(("name",), str(error)) from error
        if self.backend not in OWN_ENGINES:
            allowed = " and ".join(OWN_ENGINES)
            raise MisplacedError(
                ("backend",), f"{self.backend} is for backend_url; hpc-serve runs {allowed}"
            )
        self._refuse(STATIC_ONLY, "static backends", "no")

    def _refuse(self, keys: tuple[str, ...], kind: str, has: str) -> None:
        """Refuse keys without effect, such as the resources of a static backend."""
        for key in keys:
            if key in self.model_fields_set and getattr(self, key) is not None:
                told = f"is for {kind}, and {self.name!r} has {has} 'backend_url'"
                raise MisplacedError((key,), told)


def _is_https(url: str) -> bool:
    return url.startswith("https://")


def _by_name(models: object) -> object:
    """Convert models under their names, as ModelTainer writes them, to a list of entries.

    The flag ``embeddings`` of such an entry is dropped, as every path is open to every model.
    """
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        return models
    return [_named(str(name), dict(entry)) for name, entry in models.items()]


def _named(name: str, entry: dict[object, object]) -> dict[object, object]:
    if "service_url" in entry:
        entry.setdefault("backend_url", entry.pop("service_url"))
    if "model" not in entry:
        entry.setdefault("backend", "vllm")
        entry.pop("embeddings", None)
    return {"name": name, **entry}


class ModelsFileSchema(Strict):
    """The whole of models.yaml."""

    # A file of a later format is refused, not misread.
    version: Literal[1] = Field(1, description="format of this file")
    models: Annotated[list[ModelEntry], BeforeValidator(_by_name)] = Field(default_factory=list)
    gateway: GatewayEntry = Field(default_factory=GatewayEntry)

    @model_validator(mode="after")
    def _consistent(self) -> ModelsFileSchema:
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
    _check_names(models)
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


def _check_names(models: Sequence[ModelEntry]) -> None:
    """Check that a name stands for one service, or for static backends that agree."""
    first: dict[str, ModelEntry] = {}
    for index, entry in enumerate(models):
        other = first.setdefault(entry.name, entry)
        if other is entry:
            continue
        if entry.model is not None or other.model is not None:
            raise MisplacedError(
                ("models", index, "name"), f"the model {entry.name!r} is given twice"
            )
        for key in SHARED_POLICY:
            if getattr(entry, key) != getattr(other, key):
                raise MisplacedError(
                    ("models", index),
                    f"the servers of {entry.name!r} must agree on {key!r}, which holds for the"
                    " model",
                )
    _check_addresses(models)


def _check_addresses(models: Sequence[ModelEntry]) -> None:
    seen: set[tuple[str, str]] = set()
    for index, entry in enumerate(models):
        for url in entry.backend_url:
            if (entry.name, url) in seen:
                raise MisplacedError(
                    ("models", index, "backend_url"), f"{entry.name!r} has {url} twice"
                )
            seen.add((entry.name, url))
