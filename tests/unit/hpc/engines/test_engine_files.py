"""The files that engine arguments name: checked at submission, seen by the container."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc import engines
from hpc.engines import EngineContext, engine_files, plan
from hpc.errors import ConfigError, EngineError
from hpc.model import ServiceSpec

if TYPE_CHECKING:
    from pathlib import Path


def spec(container: str = "none", **arguments: Any) -> ServiceSpec:
    given = {key.replace("_", "-"): value for key, value in arguments.items()}
    base = ServiceSpec("m", "vllm", "vllm", "org/x", engine_args=given)
    return replace(base, container=container)  # type: ignore[arg-type]


def test_what_is_there_is_bound_with_what_its_links_reach(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "lora").mkdir()
    (tmp_path / "weights").touch()
    (tmp_path / "lora/adapter_model.safetensors").symlink_to(tmp_path / "weights")
    here = str(tmp_path)
    made = spec(
        chat_template=f"{here}/t.jinja",
        lora_modules=(f"a={here}/lora", f'{{"name": "b", "path": "{here}/lora"}}'),
        speculative_config=f'{{"model": "{here}/gone"}}',
        download_dir=f"{here}/cache",
        root_path="/v1/models",
        generation_config="/usr",
    )

    readable, written = engine_files.bound(made)

    assert readable == (f"{here}/t.jinja", f"{here}/lora", f"{here}/weights")
    assert written == (f"{here}/cache",)
    place = EngineContext(
        "/r/e.sock", None, "s", (), True, "/hf", "/r", readable=readable, written=written
    )
    launch = engines.launch(replace(made, container="apptainer"), place)
    assert [bind.split('"')[1][7:] for bind in launch.binds if bind.endswith(",ro")] == [*readable]
    assert any(f"{here}/cache" in bind and not bind.endswith(",ro") for bind in launch.binds)


@pytest.mark.parametrize("key", ["chat_template", "config", "lora_modules", "tokenizer"])
def test_a_missing_file_is_refused(tmp_path: Path, key: str) -> None:
    path = f"{tmp_path}/gone"
    value: Any = (f"a={path}",) if key == "lora_modules" else path
    with pytest.raises(EngineError, match=f"the {key.replace('_', '-')} {path} is not there"):
        engine_files.check(spec(**{key: value}))
    with pytest.raises(EngineError, match="is not there"):
        engine_files.check(spec("apptainer", **{key: value}))


def test_a_path_that_only_the_image_may_have_is_noted(tmp_path: Path) -> None:
    made = spec("apptainer", chat_template="/vllm-work/t.jinja")
    bound = spec("apptainer", chat_template=f"{tmp_path}/t.jinja")

    engine_files.check(made)
    engine_files.check(replace(bound, binds=(f"/data:{tmp_path}:ro",)))
    assert list(engine_files.notes(made)) == [
        "chat-template: /vllm-work/t.jinja is not on this machine; taken as a path of the image"
    ]


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the adapter \S+ of 'm' has no adapter_config.json"):
        engine_files.check(spec(lora_modules=(f"a={tmp_path}",)))
    (tmp_path / "adapter_config.json").touch()
    engine_files.check(spec(lora_modules=(f"a={tmp_path}",)))


def test_a_configuration_of_vllm_sets_nothing_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text("max-model-len: 100\nenforce-eager: true\n")
    plan.plan(spec(config=str(path)), {})
    path.write_text("max-model-len: 100\napi_key: [mine]\n")
    with pytest.raises(ConfigError, match=r"vllm.yaml: engine_args of m: .* is set by hpc-serve"):
        plan.plan(spec(config=str(path)), {})


def test_a_variable_that_is_not_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine_args chat-template of m: the variable \$GONE"):
        plan.plan(spec(chat_template="$GONE/t.jinja"), {})


def test_lists_are_written_as_each_server_reads_lists() -> None:
    place = EngineContext("/r/e.sock", None, "s", (), True, "/hf", "/r")
    modules = {"lora-modules": ("a=/x", "b=/y")}
    vllm = engines.launch(replace(spec(), engine_args=modules, adapters=("a", "b")), place).argv
    loras = {"lora": ("/a", "/b")}
    lora = ServiceSpec("m", "llamacpp", "llama-server", "/m.gguf", engine_args=loras)
    llama = engines.launch(lora, place).argv

    at = vllm.index("--lora-modules")
    assert vllm[at : at + 3] == ("--lora-modules", "a=/x", "b=/y")
    assert "--enable-lora" in vllm
    assert " ".join(llama).count("--lora /") == 2
    with pytest.raises(ConfigError, match="ctx-size needs one value"):
        engines.launch(
            replace(lora, server="llama-cpp-python", engine_args={"ctx-size": (1, 2)}), place
        )
