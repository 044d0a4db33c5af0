"""The source of a model's weights, and the check for complete weights in the cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.errors import ConfigError

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
BARE_REPO = re.compile(r"[A-Za-z0-9][\w.-]*")
"""A repository without an owner, such as ``gpt2``."""
TAG = re.compile(r"[A-Za-z0-9][\w-]*")
VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})")
VARIABLE_HINT = "variables are replaced at submission; set this one, or write the path itself"
SPLIT_GGUF = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Weights:
    """The source of a model's weights: a path on this cluster, or a Hugging Face repository.

    Attributes:
        path: absolute path, or None.
        repo: ``ORG/NAME``, or None.
        file: the GGUF file in the repository; None leaves the choice of files to the engine.
        tag: the quantization of a GGUF file yet to be found, such as ``Q4_K_M``; "" is any.
    """

    path: str | None = None
    repo: str | None = None
    file: str | None = None
    tag: str | None = None


def of(spec: ServiceSpec) -> Weights:
    """Return the source of a model's weights; of a split GGUF, the first part.

    Raises:
        ConfigError: ``model`` is neither an absolute path nor a repository in the engine's form.
    """
    if spec.model.startswith("/"):
        return Weights(path=first_part(spec.model))
    return _gguf(spec) if spec.engine == "llamacpp" else _repository(spec)


def _gguf(spec: ServiceSpec) -> Weights:
    repo, _, rest = spec.model.partition(":")
    if REPO.fullmatch(repo):
        if rest.endswith(".gguf"):
            return Weights(repo=repo, file=first_part(rest))
        if not rest or TAG.fullmatch(rest):
            return Weights(repo=repo, tag=rest)
    raise _no_model(spec, "ORG/NAME:FILE.gguf, ORG/NAME:QUANTIZATION or ORG/NAME")


def _repository(spec: ServiceSpec) -> Weights:
    repo, colon, rest = spec.model.partition(":")
    named = REPO.fullmatch(repo) or BARE_REPO.fullmatch(repo)
    if named and colon:
        raise ConfigError(
            f"model of {spec.name}: vLLM loads a whole repository, and would not see the"
            f" {rest!r} of {spec.model}",
            hint=f"write {repo}, or serve the GGUF file with backend: llamacpp",
        )
    if not named:
        raise _no_model(spec, "ORG/NAME")
    return Weights(repo=repo)


def _no_model(spec: ServiceSpec, allowed: str) -> ConfigError:
    if variable := VARIABLE.search(spec.model):
        return ConfigError(
            f"model of {spec.name}: the variable {variable[0]} is not set here: {spec.model}",
            hint=VARIABLE_HINT,
        )
    return ConfigError(
        f"model of {spec.name} is neither an absolute path nor {allowed}: {spec.model}"
    )


def first_part(name: str) -> str:
    """Return the first file of a split GGUF model; another name unchanged."""
    return SPLIT_GGUF.sub(r"-00001-of-\1.gguf", name)


def parts(file: str) -> list[str]:
    """Return the names of all files of a GGUF model, which may be split into several."""
    match = SPLIT_GGUF.search(file)
    if match is None:
        return [file]
    stem, count = file[: match.start()], match[1]
    return [f"{stem}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]
