"""Where shipped files are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpc import assets
from hpc.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["base", "vllm", "llamacpp", "batch", "gateway"])
def test_every_batch_template_is_there(name: str) -> None:
    assert (assets.folder("slurm_templates") / f"{name}.sbatch.j2").is_file()


def test_the_sites_templates_come_first(tmp_path: Path) -> None:
    assert assets.folders("apptainer", tmp_path) == [tmp_path, assets.folder("apptainer")]


def test_a_missing_template_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder of templates"):
        assets.folders("apptainer", tmp_path / "missing")
