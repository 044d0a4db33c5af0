"""The project installed in the lab, and the images and models that its users have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.cluster import Cluster
from tests.lab.images import build_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.slurmlab import Lab

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "examples/demo-model"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*argv, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def cluster(lab: Lab, wheel: Path) -> Cluster:
    """Return the lab with the project, the demo model and its images, as `owner` uses it."""
    lab.install_project(
        wheel,
        extras=("gateway",) if lab.suite.apptainer else ("gateway", "llamacpp"),
        packages=("openai",) if lab.suite.apptainer else ("openai", llama_cpp_python(wheel.parent)),
        constraints=versions(wheel.parent),
    )
    # What people do once, so that the command which comes by SSH is found too.
    lab.write_file("/home/owner/.bash_profile", "export PATH=/opt/hpc-serve/bin:$PATH\n")
    lab.copy_in(DEMO / "demo-f16.gguf", "/home/owner/models/demo-f16.gguf")
    for file in sorted((DEMO / "hf").iterdir()):
        lab.copy_in(file, f"/home/owner/models/hf/{file.name}")
    return Cluster(lab)


def llama_cpp_python(folder: Path) -> str:
    """Return the requirement that installs this machine's own build of llama-cpp-python.

    Args:
        folder: that of the project's wheel, which the installation sees at /mnt/wheel.
    """
    argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run(
        [*argv, pinned("llama-cpp-python")], check=True, capture_output=True, timeout=900
    )
    built = next(folder.glob("llama_cpp_python-*.whl"))
    return f"llama-cpp-python @ file:///mnt/wheel/{built.name}"


def pinned(name: str) -> str:
    """Return the locked version of a package, as a requirement."""
    locked = (ROOT / "constraints/dev.txt").read_text().splitlines()
    return next(line.rstrip(" \\") for line in locked if line.startswith(f"{name}=="))


def versions(folder: Path) -> Path:
    """Return a constraints file with the locked versions; pip takes hashes for all or for none."""
    locked = (ROOT / "constraints/dev.txt").read_text().splitlines()
    pins = [line.rstrip(" \\") for line in locked if re.match(r"[\w.-]+==", line)]
    path = folder / "versions.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


@pytest.fixture(scope="session")
def llamacpp_image(cluster: Cluster) -> str:
    """Return the path of a llama.cpp image, built by `hpc-serve build` with real Apptainer."""
    return build_image(cluster.lab, "llamacpp-debian")


@pytest.fixture(scope="session")
def llamacpp(cluster: Cluster, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the options of llama.cpp in its image, or from Python where there is no Apptainer."""
    if cluster.lab.suite.apptainer:
        return ("--image", request.getfixturevalue("llamacpp_image"), "--accelerator", "cuda")
    return ("--container", "none")


@pytest.fixture(scope="session")
def vllm_image(cluster: Cluster) -> str:
    """Return the path of an image with vLLM's CPU build."""
    return build_image(cluster.lab, "vllm-cpu")


@pytest.fixture
def clean(cluster: Cluster) -> Iterator[Cluster]:
    """Leave no service, job or gateway to the next test, and see that none was left."""
    yield cluster
    cluster.reset()
