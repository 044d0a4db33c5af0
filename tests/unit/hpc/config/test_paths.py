"""Paths and models in the forms in which people write both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc import config
from hpc.config import paths
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    ("hf.co/org/x", "org/x", None),
    ("https://huggingface.co/org/x", "org/x", None),
    ("https://huggingface.co/org/x/", "org/x", None),
    ("http://www.huggingface.co/org/x/tree/main", "org/x", None),
    ("https://huggingface.co/org/x/tree/v2", "org/x", "v2"),
    ("https://HF.co/org/x?library=vllm#usage", "org/x", None),
    ("https://huggingface.co/gpt2", "gpt2", None),
    ("hf://org/x", "org/x", None),
    ("hf.co/org/x-GGUF:Q4_K_M", "org/x-GGUF:Q4_K_M", None),
    ("https://huggingface.co/org/x-GGUF/blob/main/q4/x.gguf", "org/x-GGUF:q4/x.gguf", None),
    ("huggingface.co/org/x/resolve/abc/x%20y.gguf?download=true", "org/x:x y.gguf", "abc"),
    ("https://mirror.example/org/x", "org/x", None),
    (" org/x ", "org/x", None),
    ("org/x:Q4_K_M", "org/x:Q4_K_M", None),
    ("file:///data/x", "/data/x", None),
    ("/data/hf.co/x", "/data/hf.co/x", None),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an own folder, with variables and without the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "no-site.yaml"))
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path


@pytest.mark.parametrize(("text", "name", "revision"), PAGES)
def test_the_address_of_a_page_names_the_model(text: str, name: str, revision: str | None) -> None:
    assert paths.hub_name(text, "m") == (name, revision)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/x.gguf",
        "https://huggingface.co/datasets/org/x",
        "https://huggingface.co/",
        "hf.co/org/x/discussions/3",
        "https://huggingface.co/spaces/org/x",
    ],
)
def test_another_address_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="the model of 'm' is ") as caught:
        paths.hub_name(text, "m")
    assert "ORG/NAME" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("engine", "model", "expected"),
    [
        ("llamacpp", "models/typo.gguf", "{here}/models/typo.gguf"),
        ("llamacpp", "typo.gguf", "{here}/typo.gguf"),
        ("llamacpp", "$SCRATCH/m.gguf", "/scratch/me/m.gguf"),
        ("vllm", "${SCRATCH}/m", "/scratch/me/m"),
        ("vllm", "$UNSET/m", "$UNSET/m"),
        ("vllm", "~/m", "{here}/home/m"),
        ("vllm", "~nobody-of-this-name/m", "{here}/~nobody-of-this-name/m"),
        ("vllm", "a/b/c", "{here}/a/b/c"),
        ("vllm", "org/x", "org/x"),
        ("vllm", "org/x/", "org/x"),
        ("vllm", "https://hf.co/org/x", "org/x"),
        ("llamacpp", "org/x-GGUF:q4/x.gguf", "org/x-GGUF:q4/x.gguf"),
        ("llamacpp", "org/x-GGUF:Q4_K_M", "org/x-GGUF:Q4_K_M"),
    ],
)
def test_models_are_paths_or_names(place: Path, engine: str, model: str, expected: str) -> None:
    loaded = config.load(adhoc={"name": "m", "backend": engine, "model": model})

    assert loaded.services["m"].model == expected.format(here=place)


def test_variables_are_replaced_in_every_path(place: Path) -> None:
    (place / "models.yaml").write_text(
        "models:\n  - {name: m, backend: vllm, model: org/x, image: $SCRATCH/v.sif,"
        " hf_home: ~/hf, python: $SCRATCH/bin/python,"
        " binds: ['$SCRATCH:/scratch:ro', ./data, ~/x, 'type=bind,source=/a,destination=/b']}\n"
    )

    spec = config.load().services["m"]

    assert spec.image == "/scratch/me/v.sif"
    assert spec.hf_home == f"{place}/home/hf"
    assert spec.python == "/scratch/me/bin/python"
    assert spec.binds == (
        "/scratch/me:/scratch:ro",
        f"{place}/data:{place}/data",
        f"{place}/home/x",
        "type=bind,source=/a,destination=/b",
    )
