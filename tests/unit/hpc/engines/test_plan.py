"""The plan of an engine's start: everything that submission can know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc.engines import plan
from hpc.errors import ConfigError, EngineError
from hpc.model import Resources, ServiceSpec

if TYPE_CHECKING:
    from pathlib import Path

GGUF = b"GGUF and more"


def spec(model: str, engine: str = "llamacpp", **changes: Any) -> ServiceSpec:
    server = "llama-server" if engine == "llamacpp" else "vllm"
    base = ServiceSpec("tiny", engine, server, model, container="none")  # type: ignore[arg-type]
    return replace(base, **changes)


def test_the_command_is_planned_without_a_key(tmp_path: Path) -> None:
    made = plan.plan(spec(str(tmp_path / "m.gguf")), {"HOME": "/home/a"})

    assert made.launch.argv[0] == "llama-server"
    assert f"{plan.RUN}/engine.sock" in made.launch.argv
    assert made.launch.env[made.launch.key_env] == ""


@pytest.mark.parametrize("key", ["image", "hf_home", "python", "binds"])
def test_a_variable_that_is_not_set_is_refused(key: str) -> None:
    value: Any = ("$NONE/x:/x",) if key == "binds" else "${NONE}/x"
    with pytest.raises(ConfigError, match=rf"{key} of tiny: the variable \$\S+ is not set here"):
        plan.plan(spec("org/x:y.gguf", **{key: value}), {})


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_model_with_a_variable_that_is_not_set_is_refused(engine: str) -> None:
    with pytest.raises(ConfigError, match=r"the variable \$SCRATCH is not set here"):
        plan.plan(spec("$SCRATCH/m", engine), {})


def test_a_bind_of_the_nodes_alone_is_noted(tmp_path: Path) -> None:
    binds = (f"{tmp_path}:/a", "/no/such/folder:/b", "type=bind,source=/x")
    made = plan.plan(spec("org/x:y.gguf", binds=binds), {})

    assert made.notes == ("the bind /no/such/folder is not on this machine; the node must have it",)


def test_gpus_without_work_are_noted() -> None:
    four = Resources(gpus=4)
    idle = plan.plan(spec("org/x", "vllm", resources=four, engine_args={"-tp": 2}), {})
    busy = plan.plan(spec("org/x", "vllm", resources=four, engine_args={"tp": 2, "pp": 2}), {})

    assert idle.notes == ("the engine uses 2 of the 4 GPUs of its job",)
    assert busy.notes == ()


def test_whole_weights_pass(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    plan.check_files(spec(str(tmp_path / "m.gguf")))
    (tmp_path / "params.json").write_text("{}")
    plan.check_files(spec(str(tmp_path), "vllm"))


def test_a_missing_file_of_a_repository_gets_the_right_spelling() -> None:
    with pytest.raises(EngineError, match="is not there") as caught:
        plan.check_files(spec("/here/org/name/x.gguf"))
    assert caught.value.hint == "a file of a Hugging Face repository is written org/name:x.gguf"


def test_a_folder_is_no_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(GGUF)
    with pytest.raises(EngineError, match=r"is a folder, and llama.cpp loads") as caught:
        plan.check_files(spec(str(tmp_path)))
    assert caught.value.hint == "name one of its files: a.gguf"


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"is a folder without config.json or params.json"):
        plan.check_files(spec(str(tmp_path), "vllm"))


@pytest.mark.parametrize("engine", ["vllm", "llamacpp"])
def test_a_pointer_of_git_lfs_is_not_taken_for_weights(tmp_path: Path, engine: str) -> None:
    name = "m.gguf" if engine == "llamacpp" else "model.safetensors"
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "config.json").write_text("{}")
    model = tmp_path / name if engine == "llamacpp" else tmp_path
    with pytest.raises(EngineError, match="a pointer of Git LFS, no weights"):
        plan.check_files(spec(str(model), engine))


def test_every_part_of_a_split_model_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(GGUF)
    with pytest.raises(EngineError, match=r"the part \S+/m-00001-of-00002.gguf .* is not there"):
        plan.check_files(spec(str(tmp_path / "m-00002-of-00002.gguf")))
