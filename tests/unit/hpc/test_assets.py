"""Where shipped files are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc import assets
from hpc.engines import llamacpp
from hpc.errors import ConfigError


@pytest.mark.parametrize("name", ["base", "vllm", "llamacpp", "batch", "gateway"])
def test_every_batch_template_is_there(name: str) -> None:
    assert (assets.folder("slurm_templates") / f"{name}.sbatch.j2").is_file()


@pytest.mark.parametrize("name", ["gguf_api_server.py", *llamacpp.MODULES])
def test_the_gguf_server_is_there_and_shipped(name: str) -> None:
    wheel = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")

    assert assets.script(name).is_file()
    assert f'"scripts/{name}" = "hpc/_assets/scripts/{name}"' in wheel


def test_the_sites_templates_come_first(tmp_path: Path) -> None:
    assert assets.folders("apptainer", tmp_path) == [tmp_path, assets.folder("apptainer")]


def test_a_missing_template_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder of templates"):
        assets.folders("apptainer", tmp_path / "missing")
