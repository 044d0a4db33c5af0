"""The wheel, installed away from this checkout, is all that a user needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpc.version import __version__

PROJECT = Path(__file__).resolve().parents[2]
ASSETS = "hpc/_assets"
IMAGES = ("vllm", "vllm-rocm", "vllm-cpu", "llamacpp-cuda", "llamacpp-cpu", "llamacpp-debian")
LARGEST = 1_000_000
MODELS = "models: [{name: demo, backend: llamacpp, model: /models/demo.gguf, container: none}]\n"


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder of a user's own to run from."""

    prefix: Path
    folder: Path

    @property
    def site(self) -> Path:
        """Where its packages are."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.prefix / "lib" / version / "site-packages"

    def run(self, program: str, *argv: str) -> str:
        """Run one of its programs, as a user would who knows nothing of this checkout."""
        done = subprocess.run(
            [self.prefix / "bin" / program, *argv],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*argv, str(PROJECT)], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Return an environment with the wheel; what it depends on comes from ours."""
    folder = tmp_path_factory.mktemp("user")
    there = Installed(tmp_path_factory.mktemp("environment"), folder)
    venv.create(there.prefix, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(there.prefix / "bin/python")]
    argv = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(argv, check=True, capture_output=True)
    # A line of a .pth file adds a folder without that folder's own .pth files, and so not this
    # checkout, which is installed there in place.
    (there.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "models.yaml").write_text(MODELS)
    return there


def test_every_template_and_script_is_inside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    templates = [*PROJECT.glob("apptainer/*.j2"), *PROJECT.glob("slurm_templates/*.j2")]
    scripts = PROJECT.glob("scripts/gguf_*.py")
    wanted = {f"{ASSETS}/{path.relative_to(PROJECT)}" for path in (*templates, *scripts)}
    wanted |= {str(page.relative_to(PROJECT)) for page in PROJECT.glob("gateway_lite/pages/*")}

    assert len(wanted) > 12
    assert wanted - names == set()


def test_nothing_else_is_inside(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()

    assert {name.partition("/")[0] for name in names} == {
        "hpc",
        "gateway_lite",
        f"hpc_serve-{__version__}.dist-info",
    }
    assert not [name for name in names if re.search(r"test|demo|\.gguf$|\.safetensors$", name)]
    assert wheel.stat().st_size < LARGEST
    metadata = archive.read(f"hpc_serve-{__version__}.dist-info/entry_points.txt").decode()
    assert set(re.findall(r"^([\w-]+) = ", metadata, re.MULTILINE)) == {"hpc-serve", "gateway-lite"}


def test_it_runs_by_itself(installed: Installed) -> None:
    code = "import gateway_lite, hpc; print(hpc.__file__, gateway_lite.__file__)"
    places = installed.run("python", "-c", code).split()

    assert all(Path(place).is_relative_to(installed.site) for place in places)
    assert installed.run("hpc-serve", "--version") == f"hpc-serve, version {__version__}\n"
    assert "sidecar" in installed.run("gateway-lite", "--help")


def test_a_batch_script_comes_from_its_templates(installed: Installed) -> None:
    text = installed.run("hpc-serve", "render", "sbatch", "demo")

    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --job-name=hpc-serve-demo-0\n" in text
    assert str(installed.prefix / "bin/python") in text
    assert str(PROJECT) not in text


@pytest.mark.parametrize("image", IMAGES)
def test_a_definition_and_all_it_copies_come_from_the_wheel(
    installed: Installed, image: str
) -> None:
    text = installed.run("hpc-serve", "render", "apptainer", image)
    files = re.search(r"^%files\n((?:[ \t]+.+\n)+)", text, re.MULTILINE)
    sources = [line.split()[0] for line in files[1].splitlines()] if files else []

    assert "%post\n" in text
    assert str(PROJECT) not in text
    assert len(sources) == (2 if image == "vllm-cpu" else 0)
    for source in sources:
        assert Path(source).is_relative_to(installed.site / ASSETS)
        assert Path(source).is_file()


def test_templates_that_are_gone_from_the_wheel_are_missed(installed: Installed) -> None:
    """Nothing falls back on the checkout."""
    template = installed.site / ASSETS / "apptainer" / "llamacpp-debian.def.j2"
    aside = template.with_suffix(".aside")
    template.rename(aside)
    try:
        with pytest.raises(AssertionError, match="hpc-serve: "):
            installed.run("hpc-serve", "render", "apptainer", "llamacpp-debian")
    finally:
        aside.rename(template)
