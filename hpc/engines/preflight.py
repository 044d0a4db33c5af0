"""Checks before a submission, in a moment instead of minutes later in the job."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import EngineError
from hpc.model import IMAGE_SCHEMES

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

IMAGES: dict[str, dict[str, str]] = {
    "vllm": {"cuda": "vllm", "rocm": "vllm-rocm", "none": "vllm-cpu"},
    "llama-server": {"cuda": "llamacpp-cuda", "none": "llamacpp-debian"},
    "llama-cpp-python": {"cuda": "llamacpp-cuda", "none": "llamacpp-cpu"},
}
"""Definitions that hold each server, by accelerator."""

ROOT_FOLDERS = ("bin", "usr")
"""Folders of which any root file system has one."""
ELSEWHERE = "if compute nodes alone have it, name its folder in node_paths"


def check_files(spec: ServiceSpec, *, on_node: bool = False) -> None:
    """Check that the image and the model exist.

    Args:
        spec: the service; a Hugging Face id and an image to fetch are not looked up.
        on_node: whether this is a compute node, which sees the folders of ``node_paths`` too.

    Raises:
        EngineError: the image or the model is missing.
    """
    check_image(spec, on_node=on_node)
    named = spec.model.startswith("/") and seen(spec, spec.model, on_node=on_node)
    if named and not Path(spec.model).exists():
        raise EngineError(
            f"the model {spec.model} of {spec.name!r} is not there",
            hint=None if on_node else ELSEWHERE,
        )


def check_image(spec: ServiceSpec, *, on_node: bool = False) -> None:
    """Check that the image exists, if it is a file or a folder of the machine.

    Args:
        spec: the service.
        on_node: whether this is a compute node, which sees the folders of ``node_paths`` too.

    Raises:
        EngineError: the image is missing, or no image.
    """
    image = str(spec.image)
    if spec.container != "apptainer" or image.startswith(IMAGE_SCHEMES):
        return
    if not seen(spec, image, on_node=on_node):
        return
    path = Path(image)
    if path.is_dir():
        if not any((path / name).is_dir() for name in ROOT_FOLDERS):
            raise EngineError(
                f"the image {image} of {spec.name!r} is a folder, but no sandbox:"
                f" there is no {' or '.join(ROOT_FOLDERS)} in it"
            )
    elif not path.is_file():
        raise EngineError(
            f"the image {image} of {spec.name!r} is not there",
            hint=f"{_build_hint(spec)}; {ELSEWHERE}",
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


def seen(spec: ServiceSpec, path: str, *, on_node: bool = False) -> bool:
    """Return whether the machine sees a path as compute nodes do."""
    return on_node or not any(_inside(path, folder) for folder in spec.node_paths)


def _inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(Path(folder).expanduser())
