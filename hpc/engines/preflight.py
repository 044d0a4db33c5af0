"""Checks before a submission, in a moment instead of minutes later in the job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import EngineError

if TYPE_CHECKING:
    from hpc.model import ServiceSpec


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
            hint=f"build it with 'hpc-serve build {Path(str(spec.image)).stem}', or name another",
        )
