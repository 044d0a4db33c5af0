"""What is found out before a job is."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from hpc import config, render
from hpc.engines import preflight
from hpc.errors import EngineError
from hpc.model import Accelerator, Server, ServiceSpec


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
    built = f"hpc-serve build vllm --output {tmp_path}/vllm.sif"
    assert str(caught.value.hint).startswith(
        f"build it with '{built}', or name another; if compute"
    )


@pytest.mark.parametrize("server", get_args(Server))
@pytest.mark.parametrize("accelerator", get_args(Accelerator))
def test_an_image_of_any_name_is_built_by_a_definition_that_there_is(
    server: Server, accelerator: Accelerator
) -> None:
    given = replace(spec("org/m", Path("/my llm.sif")), server=server, accelerator=accelerator)
    with pytest.raises(EngineError) as caught:
        preflight.check_files(given)
    words = shlex.split(str(caught.value.hint).split("'", 1)[1].rsplit("'", 1)[0])
    assert words[:2] == ["hpc-serve", "build"]
    assert words[2] in render.DEFINITIONS
    if (server, accelerator) != ("llama-server", "rocm"):
        assert words[2] == config.default_image(server, accelerator)
    assert words[3:] == ["--output", "/my llm.sif"]


def test_a_sandbox_is_an_image_and_another_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "sandbox" / "usr").mkdir(parents=True)
    preflight.check_files(spec("org/model", tmp_path / "sandbox"))
    with pytest.raises(EngineError, match="is a folder, but no sandbox: there is no bin or usr"):
        preflight.check_files(spec("org/model", tmp_path))


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=f"the model {tmp_path}/m.gguf of 'tiny' is not there"):
        preflight.check_files(spec(str(tmp_path / "m.gguf")))


def test_a_link_to_nothing_is_a_missing_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(tmp_path / "gone")
    with pytest.raises(EngineError, match="is not there"):
        preflight.check_files(spec(str(tmp_path / "m.gguf")))


@pytest.mark.parametrize(
    "image",
    [
        "docker://vllm/vllm-openai:v0.11.0",
        "oras://registry.example.org/org/vllm:1",
        "library://org/collection/vllm:1",
        "docker-archive:/local/vllm.tar",
    ],
)
def test_an_image_to_fetch_is_not_looked_for(image: str) -> None:
    preflight.check_files(replace(spec("org/model"), container="apptainer", image=image))


def test_what_compute_nodes_alone_have_is_looked_for_there(tmp_path: Path) -> None:
    named = replace(
        spec("/local/models/m.gguf"),
        container="apptainer",
        image="/local/images/x.sif",
        node_paths=("/local",),
    )
    preflight.check_files(named)
    with pytest.raises(EngineError, match=r"/local/images/x\.sif of .tiny. is not"):
        preflight.check_files(named, on_node=True)
    with pytest.raises(EngineError, match="is not there") as caught:
        preflight.check_files(replace(named, node_paths=("/loc", str(tmp_path))))
    assert "node_paths" in str(caught.value.hint)
