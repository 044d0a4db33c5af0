"""The place of a Hugging Face model's weights, found at submission: in the cache, or at the Hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.engines import hf_cache, hub, snapshot, weights
from hpc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.engines.weights import Weights
    from hpc.model import ServiceSpec


def located(spec: ServiceSpec, environ: Mapping[str, str]) -> tuple[ServiceSpec, tuple[str, ...]]:
    """Return the service with its GGUF file named, and notes on what is not known.

    Args:
        spec: the service.
        environ: variables of the submission.

    Raises:
        EngineError: the repository, its revision or its file does not exist, or is closed to the
            user.
    """
    source = weights.of(spec)
    if source.repo is None:
        return spec, ()
    environ = {**environ, **spec.env}  # as the engine has both
    folder = hf_cache.hub(spec, environ)
    kept = _in_cache(spec, source, folder)
    if hf_cache.cached(kept, folder):
        return kept, ()
    if hf_cache.offline(spec, environ):
        if Path(folder).is_dir() and not hf_cache.own_folder(spec):
            raise EngineError(
                f"the weights of {spec.model} are not whole in {folder}, and HF_HUB_OFFLINE"
                " forbids their download",
                hint="download them where the internet is: hf download " + source.repo,
            )
        return kept, (f"HF_HUB_OFFLINE: {_unknown(spec)}",)
    listing = hub.look(spec, environ)
    if listing is None:
        return kept, (f"{hub.endpoint(environ)} gave no answer here: {_unknown(spec)}",)
    return _listed(spec, source, listing), ()


def _unknown(spec: ServiceSpec) -> str:
    """Return the words for a name that nobody has checked, which may be a path with an error."""
    here = Path(spec.model).absolute()
    also = f", and there is no {here}" if here.parent.is_dir() and "/" in spec.model else ""
    return f"{spec.model} was not looked up{also}"


def _in_cache(spec: ServiceSpec, source: Weights, folder: str) -> ServiceSpec:
    """Return the service with the cached file of a quantization."""
    found = hf_cache.snapshot_of(spec, folder) if source.tag is not None else None
    if found is None:
        return spec
    names = [str(path.relative_to(found)) for path in found.rglob("*.gguf")]
    file = hub.file_of(source.tag or "", names)
    return replace(spec, model=f"{source.repo}:{file}") if file else spec


def _listed(spec: ServiceSpec, source: Weights, listing: hub.Listing) -> ServiceSpec:
    """Return the service after a check of the repository's files."""
    if spec.engine != "llamacpp":
        _check_repository(spec, source, listing)
        return spec
    if source.file is None:
        file = hub.file_of(source.tag or "", listing.files)
        missing = [] if file else [source.tag or "GGUF file"]
    else:
        file = source.file
        missing = [part for part in weights.parts(file) if part not in listing.files]
    if missing:
        shown = ", ".join(listing.gguf[: hub.SHOWN]) or "no GGUF file"
        raise EngineError(
            f"the model {source.repo} of {spec.name!r} has no {missing[0]}", hint=f"has: {shown}"
        )
    return replace(spec, model=f"{source.repo}:{file}")


def _check_repository(spec: ServiceSpec, source: Weights, listing: hub.Listing) -> None:
    if any(name in listing.files for name in snapshot.CONFIGS):
        return
    other = "; serve a GGUF file of it with backend: llamacpp" if listing.gguf else ""
    raise EngineError(
        f"the repository {source.repo} of {spec.name!r} holds no model that vLLM loads: neither"
        f" {' nor '.join(snapshot.CONFIGS)}",
        hint=f"name the repository of the weights themselves{other}",
    )
