"""Checks before a submission, in a moment instead of minutes later in the job."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import EngineError

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

IMAGES: dict[str, dict[str, str]] = {
    "vllm": {"cuda": "vllm", "rocm": "vllm-rocm", "none": "vllm-cpu"},
    "llama-server": {"cuda": "llamacpp-cuda", "none": "llamacpp-debian"},
    "llama-cpp-python": {"cuda": "llamacpp-cuda", "none": "llamacpp-cpu"},
}
"""Definitions that hold each server, by accelerator."""


def check_files(spec: ServiceSpec) -> None:
    """Check that the image and the model exist.

    Args:
        spec: the service; a Hugging Face id is not looked up.

    Raises:
        EngineError: the image or the model is missing.
    """
    check_image(spec)
    if spec.model.startswith("/") and not Path(spec.model).exists():
        raise EngineError(f"the model {spec.model} of {spec.name!r} is not there")


def check_image(spec: ServiceSpec) -> None:
    """Check the image's existence.

    Raises:
        EngineError: the image is missing.
    """
    if spec.container == "apptainer" and not Path(str(spec.image)).is_file():
        raise EngineError(
            f"the image {spec.image} of {spec.name!r} is not there",
            hint=_build_hint(spec),
        )


def _build_hint(spec: ServiceSpec) -> str:
    """Return the build command for a missing image, from an existing definition."""
    known = {name for names in IMAGES.values() for name in names.values()}
    holds = IMAGES[spec.server]
    path = Path(str(spec.image))
    name = path.stem if path.stem in known else holds.get(spec.accelerator, holds["none"])
    return (
        f"build it with 'hpc-serve build {name} --output {shlex.quote(str(path))}', or name another"
    )
