"""The plan of an engine's start, made at submission: command and files.

The job makes the same plan again with its own folder and key. Whatever the first plan refuses would
else be told after the wait in Slurm's queue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import engines
from hpc.engines import arguments, engine_files, hf_cache, preflight, snapshot, vllm, weights
from hpc.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpc.engines.types import Launch
    from hpc.model import ServiceSpec

RUN = "/tmp/hpc-serve-RUN"  # noqa: S108 - a name that stands for the job's own private folder
POINTER = b"version https://git-lfs"
"""The beginning of the file that a clone without Git LFS has in the place of weights."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The planned start of an engine.

    Attributes:
        spec: the service to submit.
        launch: the engine's command, with ``RUN`` for the job's private folder and no key.
        notes: sentences for the user on settings without effect, or that could not be checked.
    """

    spec: ServiceSpec
    launch: Launch
    notes: tuple[str, ...] = ()


def plan(spec: ServiceSpec, environ: Mapping[str, str]) -> LaunchPlan:
    """Return the planned start of a service's engine.

    Args:
        spec: the service.
        environ: variables of the submission, most of which the job gets.

    Raises:
        ConfigError: the server does not accept the model or one of its engine arguments.
    """
    _check_variables(spec)
    _check_config(spec)
    launch = engines.launch(spec, _assumed(spec, environ))
    return LaunchPlan(spec, launch, tuple(_notes(spec)))


def rehearsal(spec: ServiceSpec) -> ServiceSpec:
    """Return the service as if the GGUF file of its quantization were known."""
    source = weights.of(spec) if not weights.VARIABLE.search(spec.model) else weights.Weights()
    if source.tag is None:
        return spec
    return replace(spec, model=f"{source.repo}:{source.tag or 'model'}.gguf", revision=None)


def check_files(spec: ServiceSpec) -> None:
    """Check image and model: existence, and weights in the model's files.

    Raises:
        EngineError: names the file that is missing, or in another form.
    """
    preflight.check_image(spec)
    engine_files.check(spec)
    if spec.model.startswith("/") and preflight.seen(spec, spec.model):
        _check_model(spec, Path(spec.model))


def _assumed(spec: ServiceSpec, environ: Mapping[str, str]) -> engines.EngineContext:
    """Return surroundings in the place of the job's."""
    hub = hf_cache.hub(spec, environ)
    cached = hf_cache.cached(spec, hub)
    return engines.EngineContext(
        socket=f"{RUN}/engine.sock",
        port=None,
        secret="",  # nosec B106 - stands for a secret of the job
        devices=(),
        weights_cached=cached,
        snapshot=str(hf_cache.snapshot_of(spec, hub) or "") if cached else "",
        hf_home=hf_cache.hf_home(spec, environ),
        run_dir=RUN,
        gguf_server="gguf_api_server.py",
    )


def _check_config(spec: ServiceSpec) -> None:
    """Refuse a file of vLLM's options with options of hpc-serve's own, such as another key."""
    import yaml  # noqa: PLC0415 - hardly anybody has such a file

    named = (path for option, path in engine_files.named(spec) if option == "config")
    for path in named if spec.engine == "vllm" else ():
        try:
            told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # missing, or only in the image; the engine says what is wrong with it
        keys = dict.fromkeys(map(str, told), "") if isinstance(told, dict) else {}
        try:
            arguments.given(replace(spec, engine_args=keys), reserved=vllm.RESERVED)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", hint=error.hint) from error


def _check_variables(spec: ServiceSpec) -> None:
    """Refuse paths with a variable unknown at submission."""
    named = {"image": spec.image, "hf_home": spec.hf_home, "python": spec.python}
    values = ((key, str(value)) for key, value in spec.engine_args.items() if value)
    arguments_named = ((f"engine_args {key}", value) for key, value in values if value[0] == "$")
    paths = [*named.items(), *(("binds", bind) for bind in spec.binds), *arguments_named]
    for key, path in paths:
        if path and (variable := weights.VARIABLE.search(path)):
            raise ConfigError(
                f"{key} of {spec.name}: the variable {variable[0]} is not set here: {path}",
                hint=weights.VARIABLE_HINT,
            )


def _check_model(spec: ServiceSpec, path: Path) -> None:
    if not path.exists():
        raise EngineError(
            f"the model {path} of {spec.name!r} is not there", hint=_repository_hint(spec)
        )
    if spec.engine == "llamacpp":
        _check_gguf(spec, path)
    elif path.is_dir():
        _check_folder(spec, path)


def _repository_hint(spec: ServiceSpec) -> str | None:
    parts = Path(spec.model).parts
    if Path(spec.model).parent.is_dir():
        return None
    if spec.engine == "llamacpp" and spec.model.endswith(".gguf") and len(parts) > 3:
        org, name, file = parts[-3:]
        return f"a file of a Hugging Face repository is written {org}/{name}:{file}"
    return None


def _check_gguf(spec: ServiceSpec, path: Path) -> None:
    if path.is_dir():
        found = ", ".join(sorted(one.name for one in path.glob("*.gguf"))[:5])
        raise EngineError(
            f"the model {path} of {spec.name!r} is a folder, and llama.cpp loads a GGUF file",
            hint=f"name one of its files: {found}" if found else "the folder holds none",
        )
    for name in weights.parts(path.name):
        part = path.with_name(name)
        if not part.exists():
            raise EngineError(f"the part {part} of the model of {spec.name!r} is not there")
        if part.is_file():  # a pipe would be read here, not in the job
            _check_content(spec, part)


def _check_folder(spec: ServiceSpec, path: Path) -> None:
    if not any((path / name).is_file() for name in snapshot.CONFIGS):
        names = " or ".join(snapshot.CONFIGS)
        raise EngineError(
            f"the model {path} of {spec.name!r} is a folder without {names}",
            hint="name the folder that holds the weights themselves",
        )
    for file in sorted(path.glob("*.safetensors")):
        _check_content(spec, file)


def _check_content(spec: ServiceSpec, file: Path) -> None:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError as error:
        raise EngineError(
            f"the file {file} of the model of {spec.name!r} cannot be read: {error.strerror}"
        ) from error
    if start == POINTER:
        raise EngineError(
            f"the file {file} of the model of {spec.name!r} is a pointer of Git LFS, no weights",
            hint="fetch the weights: git lfs pull",
        )


def _notes(spec: ServiceSpec) -> Iterator[str]:
    """Yield sentences on settings beyond the checks of this machine."""
    yield from engine_files.notes(spec)
    used = vllm.gpus_used(spec) if spec.engine == "vllm" else None
    if used is not None and used < spec.resources.gpus:
        yield f"the engine uses {used} of the {spec.resources.gpus} GPUs of its job"
    for bind in spec.binds:
        source = bind.partition(":")[0]
        if source.startswith("/") and not Path(source).exists():
            yield f"the bind {source} is not on this machine; the node must have it"
