"""What is found out before a job is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc.engines import preflight
from hpc.errors import EngineError
from hpc.model import ServiceSpec

if TYPE_CHECKING:
    from pathlib import Path


def spec(model: str, image: Path | None = None) -> ServiceSpec:
    return ServiceSpec(
        name="tiny",
        engine="llamacpp",
        server="llama-server",
        model=model,
        container="apptainer" if image else "none",
        image=str(image) if image else None,
    )


def test_what_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "i.sif").touch()
    preflight.check_files(spec(str(tmp_path / "m.gguf"), tmp_path / "i.sif"))
    preflight.check_files(spec(str(tmp_path)))


def test_a_model_of_hugging_face_is_not_looked_up(tmp_path: Path) -> None:
    preflight.check_files(spec("org/model:file.gguf"))


def test_a_missing_image_is_named_with_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"image {tmp_path}/vllm.sif of 'tiny' is not") as caught:
        preflight.check_files(spec("org/model", tmp_path / "vllm.sif"))
    assert caught.value.hint == "build it with 'hpc-serve build vllm', or name another"


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is not there"):
        preflight.check_files(spec("org/model", tmp_path))


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"the model {tmp_path}/m.gguf of 'tiny' is not there"):
        preflight.check_files(spec(str(tmp_path / "m.gguf")))


def test_a_link_to_nothing_is_a_missing_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(tmp_path / "gone")
    with pytest.raises(EngineError, match="is not there"):
        preflight.check_files(spec(str(tmp_path / "m.gguf")))
