"""The Hugging Face cache as real caches are: what is whole, where it is, and the token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpc.engines import hf_cache
from hpc.model import ServiceSpec

if TYPE_CHECKING:
    from pathlib import Path

BASE = {"config.json": "{}", "tokenizer.json": "{}"}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def index(*names: str) -> str:
    return json.dumps({"weight_map": {str(number): name for number, name in enumerate(names)}})


BIN_INDEX = {"pytorch_model.bin.index.json": index("pytorch_model-00001-of-00002.bin")}
SHARDED = {**BASE, "model.safetensors.index.json": index(*SHARDS)}
CONSOLIDATED = {"params.json": "{}", "tekken.json": "{}", "consolidated.safetensors": "x"}


def spec(engine: str = "vllm", **changes: Any) -> ServiceSpec:
    server = "vllm" if engine == "vllm" else "llama-server"
    base = ServiceSpec("m", engine, server, "org/repo")  # type: ignore[arg-type]
    return replace(base, **changes)


def snapshot(hub: Path, files: dict[str, str], name: str = "org/repo") -> Path:
    folder = hub / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("c0ffee")
    for file, text in files.items():
        path = folder / "snapshots/c0ffee" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "snapshots/c0ffee"


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({**BASE, "model.safetensors": "x"}, True),
        ({**BASE, "model.safetensors": ""}, False),
        ({"config.json": "{}", "model.safetensors": "x"}, False),
        ({"tokenizer.json": "{}", "model.safetensors": "x"}, False),
        (BASE, False),
        ({**BASE, "training_args.bin": "x"}, False),
        ({**BASE, "pytorch_model.bin": "x"}, True),
        # leftovers of another form
        ({**BASE, **BIN_INDEX, "model.safetensors": "x"}, True),
        ({**SHARDED, **BIN_INDEX, SHARDS[0]: "x", SHARDS[1]: "x"}, True),
        ({**BASE, **BIN_INDEX}, False),
        ({**SHARDED, "pytorch_model.bin": "x"}, True),
        # downloads that ended halfway
        ({**BASE, SHARDS[0]: "x"}, False),
        ({**BASE, SHARDS[0]: "x", SHARDS[1]: "x"}, False),
        ({**SHARDED, SHARDS[0]: "x"}, False),
        ({**SHARDED, SHARDS[0]: "x", SHARDS[1]: ""}, False),
        ({**SHARDED, SHARDS[0]: "x", SHARDS[1]: "x"}, True),
        ({**BASE, "model.safetensors.index.json": "{", SHARDS[0]: "x"}, False),
        # Mistral's own files
        (CONSOLIDATED, True),
        ({**CONSOLIDATED, **SHARDED}, True),
        ({**SHARDED, **CONSOLIDATED, "consolidated.safetensors": "", SHARDS[0]: "x"}, False),
        (
            {**BASE, "consolidated.safetensors.index.json": index("a"), "model.safetensors": "x"},
            True,
        ),
        # other tokenizers
        ({"config.json": "{}", "vocab.txt": "x", "model.safetensors": "x"}, True),
        ({"config.json": "{}", "spiece.model": "x", "model.safetensors": "x"}, True),
        ({"config.json": "{}", "qwen.tiktoken": "x", "pytorch_model.bin": "x"}, True),
    ],
)
def test_weights_are_whole_by_the_engines_own_choice(
    tmp_path: Path, files: dict[str, str], whole: bool
) -> None:
    snapshot(tmp_path, files)

    assert hf_cache.cached(spec(), str(tmp_path)) is whole
    assert hf_cache.cached(spec(revision="c0ffee"), str(tmp_path)) is whole
    assert hf_cache.cached(spec(revision="v2"), str(tmp_path)) is False


def test_another_tokenizer_need_not_be_there(tmp_path: Path) -> None:
    snapshot(tmp_path, {"config.json": "{}", "model.safetensors": "x"})

    assert hf_cache.cached(spec(engine_args={"tokenizer": "/t"}), str(tmp_path))
    assert hf_cache.cached(spec(engine_args={"--skip_tokenizer_init": True}), str(tmp_path))


def test_a_folder_of_the_models_own_is_not_judged_by_the_cache(tmp_path: Path) -> None:
    snapshot(tmp_path, {**BASE, "model.safetensors": "x"})

    assert not hf_cache.cached(spec(engine_args={"download_dir": "/d"}), str(tmp_path))


@pytest.mark.parametrize(("size", "whole"), [(1, True), (2, False)])
def test_the_listing_of_a_repository_tells_sizes(tmp_path: Path, size: int, whole: bool) -> None:
    made = snapshot(tmp_path, {**BASE, "model.safetensors": "x"})
    trees = made.parents[1] / "trees"
    trees.mkdir()
    listing = {"model.safetensors": {"size": 130, "lfs_size": size, "blob_id": "b"}}
    (trees / "c0ffee.json").write_text(json.dumps({"format_version": 1, "files": listing}))

    assert hf_cache.cached(spec(), str(tmp_path)) is whole


def test_an_unfinished_download_is_not_whole(tmp_path: Path) -> None:
    made = snapshot(tmp_path, BASE)
    (made / "model.safetensors").symlink_to(tmp_path / "blobs/missing")

    assert hf_cache.cached(spec(), str(tmp_path)) is False


def test_a_gguf_file_needs_all_its_parts(tmp_path: Path) -> None:
    made = snapshot(tmp_path, {"q4/m.gguf": "x", "s-00001-of-00002.gguf": "x"})
    (made / "s-00002-of-00002.gguf").touch()

    def whole(file: str) -> bool:
        return hf_cache.cached(spec("llamacpp", model=f"org/repo:{file}"), str(tmp_path))

    assert whole("q4/m.gguf")
    assert not whole("m.gguf")
    assert not whole("s-00002-of-00002.gguf")
    (made / "s-00002-of-00002.gguf").write_text("x")
    assert whole("s-00002-of-00002.gguf")


@pytest.mark.parametrize(
    ("changes", "environ", "home", "hub"),
    [
        ({}, {}, "/home/a/.cache/huggingface", None),
        ({}, {"XDG_CACHE_HOME": "/x"}, "/x/huggingface", None),
        ({}, {"HF_HOME": "/e"}, "/e", None),
        ({}, {"HF_HOME": "~/e"}, "/home/a/e", None),
        ({}, {"HF_HUB_CACHE": "/scratch/hub"}, "/home/a/.cache/huggingface", "/scratch/hub"),
        ({}, {"HF_HOME": "/e", "HUGGINGFACE_HUB_CACHE": "/old"}, "/e", "/old"),
        (
            {},
            {"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/e"},
            "/e",
            "/new",
        ),
        ({"hf_home": "/s/hf"}, {"HF_HUB_CACHE": "/scratch/hub", "HF_HOME": "/e"}, "/s/hf", None),
        ({"env": {"HF_HOME": "/m"}}, {"HF_HOME": "/e"}, "/m", None),
        ({"env": {"HF_HUB_CACHE": "/m"}}, {"HF_HOME": "/e"}, "/e", "/m"),
    ],
)
def test_the_cache_is_where_hugging_face_has_it(
    changes: dict[str, Any], environ: dict[str, str], home: str, hub: str | None
) -> None:
    environ = {"HOME": "/home/a", **environ}

    assert hf_cache.hf_home(spec(**changes), environ) == home
    assert hf_cache.hub(spec(**changes), environ) == (hub or f"{home}/hub")


def test_the_token_is_the_variables_else_that_of_the_login(tmp_path: Path) -> None:
    login = tmp_path / ".cache/huggingface/token"
    login.parent.mkdir(parents=True)
    login.write_text("hf_login\n")
    (tmp_path / "other").write_text("hf_other")
    home = {"HOME": str(tmp_path)}

    assert hf_cache.token({}) is None
    assert hf_cache.token(home) == "hf_login"
    assert hf_cache.token({**home, "HF_TOKEN": "hf_env"}) == "hf_env"
    assert hf_cache.token({**home, "HUGGING_FACE_HUB_TOKEN": "hf_old"}) == "hf_old"
    assert hf_cache.token({**home, "HF_TOKEN_PATH": "~/other"}) == "hf_other"
    assert hf_cache.token({**home, "HF_HOME": str(tmp_path)}) is None
    assert hf_cache.token({**home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) is None
    assert hf_cache.token({**home, "HF_ENDPOINT": "http://mirror.example"}) is None
    assert hf_cache.token({**home, "HF_ENDPOINT": "https://mirror.example"}) == "hf_login"


def test_links_out_of_a_cache_are_followed(tmp_path: Path) -> None:
    """hub, repository, blobs and one file are links elsewhere, the first over two hops."""
    real, big, one = tmp_path / "real", tmp_path / "big", tmp_path / "one.safetensors"
    made = snapshot(real / "hub", BASE)
    repository = made.parents[1]
    one.write_text("x")
    (big / "blobs").mkdir(parents=True)
    (big / "blobs/hash").write_text("x")
    (repository / "blobs").symlink_to(big / "blobs")
    (made / "model.safetensors").symlink_to("../../blobs/hash")
    (made / "extra.safetensors").symlink_to(one)
    moved = tmp_path / "repositories"
    moved.mkdir()
    (repository).rename(moved / repository.name)
    repository.symlink_to(moved / repository.name)
    home = tmp_path / "home/huggingface"
    home.mkdir(parents=True)
    (tmp_path / "hop").symlink_to(real)
    (home / "hub").symlink_to(tmp_path / "hop/hub")

    found = hf_cache.links(spec(), str(home / "hub"), str(home))

    assert set(found) == {
        str(tmp_path / "hop/hub"),
        str(moved / repository.name),
        str(big / "blobs"),
        str(one),
    }


def test_links_inside_a_cache_lead_nowhere_else(tmp_path: Path) -> None:
    made = snapshot(tmp_path / "hub", BASE)
    (made.parents[1] / "blobs").mkdir()
    (made.parents[1] / "blobs/hash").write_text("x")
    (made / "model.safetensors").symlink_to("../../blobs/hash")
    (made / "loop").symlink_to("loop")

    assert hf_cache.links(spec(), str(tmp_path / "hub"), str(tmp_path)) == ()


def test_links_of_a_folder_of_weights_are_followed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.safetensors").write_text("x")
    (tmp_path / "m/a.safetensors").symlink_to("../data/a.safetensors")
    (tmp_path / "m/gone").symlink_to("/no/such/file")

    found = hf_cache.links(spec(model=str(tmp_path / "m")), "/h/hub", "/h")

    assert found == (str(tmp_path / "data/a.safetensors"),)
