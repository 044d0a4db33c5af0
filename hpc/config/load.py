"""Merging of layers: default < sbatch's < site file < models.yaml < environment < flag."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hpc.config import engine_options, paths, sbatch_variables
from hpc.config.fields import check_alias
from hpc.config.gateway import resolved
from hpc.config.resources import ALTERNATIVES, overlaid
from hpc.config.schema import ModelEntry, ModelsFileSchema, ResourcesEntry, Settings, SiteFileSchema
from hpc.config.yaml_files import explain, placed, read
from hpc.errors import ConfigError
from hpc.gateway_policy import GatewayPolicy
from hpc.model import IMAGE_SCHEMES, Engine, EngineValue, Resources, Server, ServiceSpec
from hpc.state import directory, trust

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "HPC_SERVE_"
NAMED = "HPC_SERVE_MODELS"
MODELS_NAME = "models.yaml"
SCALARS = ("container", "server", "image", "accelerator", "replicas", "hf_home", "python")
"""Settings that a variable or a flag may set, beside every resource except ``extra``."""
UNSET = "none"
"""The memory of a variable or a flag that unsets the memory of the files, as null does there."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A static backend: a server that runs outside hpc-serve.

    Attributes:
        url: the server's address, without ``/v1``.
        api_key_env: the gateway's variable that holds the server's key.
        revision: the revision of the served model, according to models.yaml.
    """

    name: str
    backend: Engine
    url: str
    format: str = "chat_completions"
    api_key_env: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """The settings of a whole site."""

    apptainer: str = "apptainer"
    templates: Path | None = None
    debian_mirror: str | None = None
    definition: Mapping[str, str] = field(default_factory=dict)
    gateway_port: int = 8081


@dataclass(frozen=True, slots=True)
class Config:
    """The complete configuration, resolved.

    Attributes:
        home: state directory.
        models_file: the models.yaml that was read, or None.
        found: whether a search found that file, rather than a flag or variable that named it.
        services: services that can be submitted, by name.
        backends: static backends, which only need a route.
        gateway: the gateway's policy for requests.
    """

    home: Path
    models_file: Path | None
    services: Mapping[str, ServiceSpec]
    backends: tuple[Backend, ...]
    site: Site
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)
    found: bool = False


def load(
    *,
    models_file: str | None = None,
    found: bool = False,
    flags: Mapping[str, Any] | None = None,
    home: str | None = None,
    adhoc: Mapping[str, Any] | None = None,
) -> Config:
    """Read the site file, models.yaml and the environment, and put the flags on top.

    Args:
        models_file: path of models.yaml; None searches as ``find_models`` says.
        found: whether a search found ``models_file``, which then must be safe from others.
        flags: settings by flag, such as ``{"partition": "gpu", "mem": "64G"}``; None is unset.
        home: state directory; None is ``HPC_SERVE_HOME`` or the user's own.
        adhoc: keys of one more entry beside the file's: ``name``, ``backend``, ``model``.

    Raises:
        ConfigError: a value is not allowed; names file and line, variable or flag.
        StateError: the state directory cannot be used.
    """
    site_file, site_path = _site()
    if models_file is not None and found:
        path: Path | None = safe(Path(models_file))
    else:
        found = searched(models_file)
        path = find_models(models_file)
    file = read(path, ModelsFileSchema) if path else ModelsFileSchema()
    entries = [*file.models, *_adhoc(adhoc)]
    shell = _of_sbatch()
    over = [_environment(), _layer(flags or {}, lambda key: "--" + key.replace("_", "-"))]
    root = directory.home(home)
    base = (path.parent if path else Path.cwd()).absolute()
    specs: dict[str, ServiceSpec] = {}
    for entry in (e for e in entries if e.model is not None):
        # Paths in models.yaml are relative to the file, paths on the command line to the caller.
        folder = Path.cwd() if adhoc and entry.name == adhoc["name"] else base
        layers = [shell, site_file, entry, *over]
        specs[entry.name] = _Resolver(root, folder, layers).spec(entry)
    backends = tuple(
        Backend(e.name, e.backend, e.backend_url.rstrip("/"), e.format, e.api_key_env, e.revision)
        for e in entries
        if e.backend_url is not None
    )
    site = _site_values(site_file, site_path)
    return Config(root, path, specs, backends, site, resolved(file), found and path is not None)


def find_models(given: str | None) -> Path | None:
    """Return the models.yaml to read: given, ``HPC_SERVE_MODELS``, here, or the user's own.

    Raises:
        ConfigError: the named file does not exist, or the found file is not safe from others.
    """
    named = given or os.environ.get(NAMED)
    if named:
        path = Path(named).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"there is no models file {path}", hint="write one: hpc-serve init")
        return path
    places = (Path.cwd() / MODELS_NAME, config_folder() / MODELS_NAME)
    return next((safe(place) for place in places if place.is_file()), None)


def searched(given: str | None) -> bool:
    """Return whether ``find_models`` searches, as neither flag nor variable names a file."""
    return not (given or os.environ.get(NAMED))


def safe(path: Path) -> Path:
    """Return a file or folder that a search found, unless foreign users can write to it.

    Such a file is code: setup lines, commands, addresses that get a key.

    Raises:
        ConfigError: names the weakness and its repair.
    """
    try:
        weak = trust.weak_file(path.absolute())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if weak is not None:
        own = "name the file by a flag or variable to use it all the same"
        raise ConfigError(
            f"{path} was found but is not used, as others may have written it: {weak.text}",
            hint=f"{weak.repair}, or {own}" if weak.repair else own,
        )
    return path


def config_folder() -> Path:
    """Return the folder of the user's own configuration."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # As the specification says, and as with XDG_STATE_HOME: a relative path is ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "hpc-serve"


def site_path() -> Path:
    """Return the path of the site file, whether the file exists or not."""
    named = os.environ.get(VARIABLE + "SITE")
    return Path(named).expanduser().absolute() if named else config_folder() / "site.yaml"


def _site() -> tuple[SiteFileSchema, Path]:
    path = site_path()
    if not path.is_file():
        return SiteFileSchema(), path
    named = os.environ.get(VARIABLE + "SITE")
    return read(path if named else safe(path), SiteFileSchema), path


def _site_values(site: SiteFileSchema, path: Path) -> Site:
    templates = None if site.templates is None else path.parent / Path(site.templates).expanduser()
    return Site(
        apptainer=site.apptainer,
        templates=templates,
        debian_mirror=site.debian_mirror,
        definition=site.definition,
        gateway_port=site.gateway_port,
    )


def _adhoc(keys: Mapping[str, Any] | None) -> list[ModelEntry]:
    if keys is None:
        return []
    try:
        return [ModelEntry.model_validate({k: v for k, v in keys.items() if v is not None})]
    except ValidationError as error:
        raise ConfigError(explain(placed(error.errors()[0]), ModelEntry)) from error


def _environment() -> Settings:
    known = {VARIABLE + key.upper(): key for key in (*SCALARS, *_resource_keys())}
    said = {key: os.environ[name] for name, key in known.items() if os.environ.get(name)}
    return _layer(said, lambda key: VARIABLE + key.upper())


def _of_sbatch() -> Settings:
    said = sbatch_variables.resources(os.environ)
    known = {**sbatch_variables.HONOURED, **sbatch_variables.EXTRA}
    names = {key: name for name, key in known.items()}
    return _layer(said, lambda key: names.get(key, key))


def _resource_keys() -> list[str]:
    return [key for key in ResourcesEntry.model_fields if key != "extra"]


def _layer(said: Mapping[str, Any], name_of: Any) -> Settings:
    """Validate the flat settings of one origin, and name the origin in errors."""
    given = {key: value for key, value in said.items() if value is not None}
    if given.get("mem") == UNSET:
        given["mem"] = None
    resources = {key: given.pop(key) for key in list(given) if key in ResourcesEntry.model_fields}
    try:
        return Settings.model_validate({**given, "resources": resources})
    except ValidationError as error:
        first = placed(error.errors()[0])
        message = explain(first, Settings).split(": ", 1)[-1]
        raise ConfigError(f"{name_of(str(first['loc'][-1]))}: {message}") from error


def changed(resources: Resources, flags: Mapping[str, Any]) -> Resources:
    """Return the requested resources with some flags on top.

    Args:
        resources: the resources of the previous request.
        flags: as for ``load``; None is unset.

    Raises:
        ConfigError: a value is not allowed; names the flag.
    """
    said = _layer(flags, lambda key: "--" + key.replace("_", "-")).resources
    above = said.model_dump(exclude_unset=True)
    # Alternatives of a new value lose theirs: memory per CPU gives way to memory per node.
    unset = {key: None for keys in ALTERNATIVES if above.keys() & set(keys) for key in keys}
    return replace(resources, **_named({**unset, **above}))


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    names = {"mem": "mem_mb", "time": "time_min"}
    return {names.get(key, key): value for key, value in values.items()}


@dataclass(frozen=True, slots=True)
class _Resolver:
    """The merging of an entry's layers; the last layer with a value wins."""

    root: Path
    base: Path
    layers: list[Settings]

    def spec(self, entry: ModelEntry) -> ServiceSpec:
        needs_gpu = entry.backend == "vllm" and self._last("accelerator", None) != "none"
        resources = self._resources(default_gpus=1 if needs_gpu else 0)
        container = self._last("container", "apptainer")
        default: Server = "llama-server" if container == "apptainer" else "llama-cpp-python"
        server = self._last("server", "vllm" if entry.backend == "vllm" else default)
        if (server == "vllm") != (entry.backend == "vllm"):
            raise ConfigError(f"model {entry.name!r}: the server {server} is not {entry.backend}")
        accelerator = self._last("accelerator", "cuda" if resources.gpus else "none")
        hf_home = self._last("hf_home", None)
        arguments = engine_options.resolved(self._merged("engine_args"), self.base, safe)
        model, revision = paths.hub_name(entry.model or "", entry.name)
        given = self._last("replica_ports", None)
        ports = None if given is None else given.partition("-")
        return ServiceSpec(
            name=entry.name,
            engine=entry.backend,
            server=server,
            model=self._model(model, entry.backend),
            container=container,
            image=self._image(server, accelerator) if container == "apptainer" else None,
            accelerator=accelerator,
            replicas=self._last("replicas", 1),
            resources=resources,
            revision=entry.revision or revision,
            engine_args=arguments,
            adapters=self._adapters(entry.name, arguments),
            env=self._merged("env"),
            binds=tuple(paths.expanded_bind(bind, self.base) for bind in self._joined("binds")),
            apptainer_args=self._joined("apptainer_args"),
            media_domains=self._joined("media_domains"),
            setup=self._joined("setup"),
            hf_home=None if hf_home is None else str(self._path(hf_home)),
            python=self._python(self._last("python", None)),
            load_timeout_s=self._last("load_timeout", 1800),
            grace_s=self._last("grace", 90),
            max_restarts=self._last("max_restarts", 100),
            replica_tls=self._last("replica_tls", default=False),
            replica_ports=None if ports is None else (int(ports[0]), int(ports[2])),
            interface=self._last("interface", None),
            tmp=self._last("tmp", None),
            node_paths=self._joined("node_paths"),
        )

    def _resources(self, *, default_gpus: int) -> Resources:
        said: dict[str, Any] = {}
        for layer in self.layers:
            said = overlaid(said, layer.resources.model_dump(exclude_unset=True))
        extra = {name: value for name, value in said.get("extra", {}).items() if value is not None}
        gpus = said.get("gpus", default_gpus)
        if "cpus_per_gpu" in said:
            said["cpus"] = said["cpus_per_gpu"] * gpus
        for key in ("cpus_per_gpu", "mem_per_gpu"):
            if key in said and not gpus:
                raise ConfigError(f"resources.{key} needs GPUs, and there are none: set gpus")
        return Resources(**_named({**said, "gpus": gpus, "extra": extra}))

    def _said(self, key: str) -> list[Any]:
        """Return the values of a key from the layers; null discards those of lower layers."""
        said: list[Any] = []
        for layer in self.layers:
            value = getattr(layer, key)
            if key in layer.model_fields_set and value is None:
                said = []
            said += [] if value is None else [value]
        return said

    def _last(self, key: str, default: Any) -> Any:
        return (self._said(key) or [default])[-1]

    def _merged(self, key: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for value in self._said(key):
            merged |= value
        return {name: value for name, value in merged.items() if value is not None}

    def _joined(self, key: str) -> tuple[str, ...]:
        return tuple(item for value in self._said(key) for item in value)

    @staticmethod
    def _adapters(name: str, arguments: Mapping[str, EngineValue]) -> tuple[str, ...]:
        found = engine_options.adapters(arguments)
        for adapter in found:
            try:
                check_alias(adapter)
            except ValueError as error:
                raise ConfigError(f"engine_args of {name}: an adapter: {error}") from error
        if name in found or len(set(found)) < len(found):
            raise ConfigError(
                f"engine_args of {name}: each adapter needs a name of its own, beside {name!r}"
            )
        return found

    def _path(self, text: str) -> Path:
        path = paths.expanded(text)
        # A variable that is not set stays in front, so that the check at submission finds it.
        return Path(path) if path.startswith("$") else self.base / path

    def _python(self, text: str | None) -> str | None:
        """Return an interpreter's path; a program's name alone is looked for on the node."""
        return text if text is None or not text.startswith(("~", "$")) else paths.expanded(text)

    def _model(self, text: str, engine: Engine) -> str:
        """Return an absolute path for a file or folder, and a Hugging Face id unchanged."""
        path = self._path(text)
        says_path = text.startswith(("/", "./", "../", "~", "$"))
        if not says_path and path.exists():
            # Anybody who writes to the folder could put a model in the way of a Hugging Face id.
            says_path = bool(safe(path))
        # The name of a file, or of a folder in a folder, is a path even where nothing is there, so
        # that the error names the place: no repository has such a name.
        named = ":" not in text and (
            (engine == "llamacpp" and text.endswith(".gguf")) or text.rstrip("/").count("/") > 1
        )
        return str(path) if says_path or named else text.rstrip("/")

    def _image(self, server: Server, accelerator: str) -> str:
        text: str = self._last("image", None) or default_image(server, accelerator) + ".sif"
        if text.startswith(IMAGE_SCHEMES):
            return text
        if "://" in text:
            known = ", ".join(IMAGE_SCHEMES)
            raise ConfigError(
                f"the image {text!r} is of no known kind; allowed: a path, or one of {known}"
            )
        # A name alone is never looked for beside models.yaml, where others may have put an image.
        return str(self._path(text) if "/" in text else directory.images_dir(self.root) / text)


def default_image(server: Server, accelerator: str) -> str:
    """Return the name of the bundled image that holds a server, as ``hpc-serve build`` lists it."""
    if server == "vllm":
        return {"rocm": "vllm-rocm", "none": "vllm-cpu"}.get(accelerator, "vllm")
    if accelerator == "cuda":
        return "llamacpp-cuda"
    return "llamacpp-debian" if server == "llama-server" else "llamacpp-cpu"
