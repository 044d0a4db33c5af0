"""engine_args with files, lists and mappings, and the names of adapters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpc import config
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.model import ServiceSpec


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of models.yaml, with a template and an adapter beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "no-site.yaml"))
    (tmp_path / "chat").write_text("{{ messages }}")
    (tmp_path / "adapters/sql").mkdir(parents=True)
    return tmp_path


def spec(place: Path, **arguments: Any) -> ServiceSpec:
    entry = {"name": "m", "backend": "vllm", "model": "org/x", "engine_args": arguments}
    (place / "models.yaml").write_text(json.dumps({"models": [entry]}))
    return config.load().services["m"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("chat-template", "chat", "{here}/chat"),
        ("chat_template", "gone.jinja", "{here}/gone.jinja"),
        ("chat-template", "./gone", "{here}/gone"),
        ("chat-template", "~/t.jinja", "{here}/home/t.jinja"),
        ("chat-template", "$SCRATCH/t.jinja", "/scratch/me/t.jinja"),
        ("chat-template", "$UNSET_HERE/t.jinja", "$UNSET_HERE/t.jinja"),
        ("chat-template", "/abs/t.jinja", "/abs/t.jinja"),
        ("chat-template", "{{ messages[0].content }}", "{{ messages[0].content }}"),
        ("chat-template", "chatml", "chatml"),
        ("dtype", "chat", "chat"),
        ("tokenizer", "org/tokenizer", "org/tokenizer"),
        ("lora-modules", "sql=adapters/sql", ("sql={here}/adapters/sql",)),
        ("lora-modules", "sql=org/adapter", ("sql=org/adapter",)),
        ("lora-modules", "a=./x b=/y", ("a={here}/x", "b=/y")),
        ("lora-modules", ["a=~/x", "b=$SCRATCH/y"], ("a={here}/home/x", "b=/scratch/me/y")),
        ("stop", ["a", 1, True], ("a", 1, True)),
        ("max-model-len", 8, 8),
    ],
)
def test_paths_are_resolved_and_other_values_are_not(
    place: Path, key: str, value: Any, expected: Any
) -> None:
    found = spec(place, **{key: value}).engine_args[key]

    def filled(one: Any) -> Any:
        return one.replace("{here}", str(place)) if isinstance(one, str) else one

    several = isinstance(expected, tuple)
    assert found == (tuple(map(filled, expected)) if several else filled(expected))


def test_mappings_are_json_with_their_paths_resolved(place: Path) -> None:
    told = {"method": "eagle", "model": "./draft", "num_speculative_tokens": 3}
    modules = [{"name": "a", "path": "./b"}]
    made = spec(place, **{"speculative-config": told, "lora-modules": modules})

    draft = json.loads(str(made.engine_args["speculative-config"]))
    assert draft == {**told, "model": f"{place}/draft"}
    found = made.engine_args["lora-modules"]
    assert isinstance(found, tuple)
    assert json.loads(str(found[0])) == {"name": "a", "path": f"{place}/b"}
    assert made.adapters == ("a",)


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        ("sql=/a", ("sql",)),
        ("sql=/a other=/b", ("sql", "other")),
        (["sql=/a", '{"name": "team/x", "path": "/b"}'], ("sql", "team/x")),
        ('[{"name":"x","path":"/b"}]', ("x",)),
        ([], ()),
    ],
)
def test_adapters_have_names(place: Path, modules: Any, names: tuple[str, ...]) -> None:
    assert spec(place, lora_modules=modules).adapters == names


@pytest.mark.parametrize("modules", [["m=/a"], ["a=/a", "a=/b"], ["a b=/c"], ["=/c"]])
def test_a_name_that_is_none_or_taken_is_refused(place: Path, modules: list[str]) -> None:
    with pytest.raises(ConfigError, match="engine_args of m: "):
        spec(place, **{"lora-modules": modules})
