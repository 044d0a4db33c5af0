"""Checks before a submission, in a moment instead of minutes later in the job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import EngineError
from hpc.model import IMAGE_SCHEMES

if TYPE_CHECKING:
    from hpc.model import ServiceSpec

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
    if spec.container == "apptainer":
        _check_image(spec, str(spec.image), on_node=on_node)
    named = spec.model.startswith("/") and _seen(spec, spec.model, on_node=on_node)
    if named and not Path(spec.model).exists():
        raise EngineError(
            f"the model {spec.model} of {spec.name!r} is not there",
            hint=None if on_node else ELSEWHERE,
        )


def _check_image(spec: ServiceSpec, image: str, *, on_node: bool) -> None:
    if image.startswith(IMAGE_SCHEMES) or not _seen(spec, image, on_node=on_node):
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
            hint=f"build it with 'hpc-serve build {path.stem}', or name another; {ELSEWHERE}",
        )


def _seen(spec: ServiceSpec, path: str, *, on_node: bool) -> bool:
    """Return whether this machine sees a path as compute nodes do."""
    return on_node or not any(_inside(path, folder) for folder in spec.node_paths)


def _inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(Path(folder).expanduser())
