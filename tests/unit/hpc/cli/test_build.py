"""render and build on the command line: what reaches the definition, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from hpc.cli.main import root
from hpc.errors import ConfigError, StateError

if TYPE_CHECKING:
    from pathlib import Path

MODELS = """\
version: 1
models:
  - name: demo
    backend: llamacpp
    model: /models/demo.gguf
    image: /images/x.sif
    replicas: 2
    resources: {partition: gpu, gpus: 1, time: "08:00:00"}
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the site file, with nothing of the user's own around it."""
    for name in ("HPC_SERVE_MODELS", "HPC_SERVE_CLUSTER", "HPC_SERVE_PARTITION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HPC_SERVE_SITE", str(tmp_path / "site.yaml"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.yaml").write_text(MODELS)
    return tmp_path / "site.yaml"


def printed(*argv: str) -> str:
    done = CliRunner().invoke(root, argv, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_definition_is_printed_with_what_flags_say() -> None:
    text = printed(
        *("render", "apptainer", "llamacpp-debian", "--bootstrap", "debootstrap"),
        *("--mirror", "http://m.example/debian", "--set", "version=1:0.8.0-1"),
    )

    assert text.startswith("Bootstrap: debootstrap\n")
    assert "MirrorURL: http://m.example/debian\n" in text
    assert "wanted=1:0.8.0-1" in text


def test_the_site_speaks_for_all_or_for_one(site: Path) -> None:
    site.write_text(
        "debian_mirror: http://m.example/debian\n"
        "definition: {suite: trixie, llamacpp-cpu.bootstrap: debootstrap}\n"
    )

    assert "OSVersion: trixie\nMirrorURL: http://m.example" in printed(
        "render", "apptainer", "llamacpp-cpu"
    )
    assert printed("render", "apptainer", "llamacpp-debian").startswith("Bootstrap: docker\n")


def test_a_variable_needs_its_value() -> None:
    done = CliRunner().invoke(root, ["render", "apptainer", "vllm", "--set", "version"])

    assert done.exit_code == 2
    assert "--set version is not KEY=VALUE" in done.output


@pytest.mark.parametrize("command", [("render", "apptainer"), ("build",)])
def test_an_engine_nobody_knows_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="there is no definition 'nope'; allowed: vllm, "):
        CliRunner().invoke(root, [*command, "nope"], catch_exceptions=False)


def test_an_image_that_is_there_is_kept(tmp_path: Path) -> None:
    image = tmp_path / "home/images/vllm.sif"
    image.parent.mkdir(parents=True)
    image.touch()

    with pytest.raises(StateError, match=r"vllm\.sif is there already"):
        CliRunner().invoke(root, ["build", "vllm"], catch_exceptions=False)


def test_a_batch_script_is_printed_for_each_replica() -> None:
    text = printed("render", "sbatch", "demo", "--replica", "1", "--partition", "other")

    assert text.startswith("#!/bin/bash\n#SBATCH --job-name=hpc-serve-demo-1\n")
    assert "#SBATCH --partition=other\n" in text
    assert "#SBATCH --gres=gpu:1\n" in text


def test_a_replica_that_is_not_asked_for_is_refused() -> None:
    argv = ["render", "sbatch", "demo", "--replica", "2"]

    with pytest.raises(ConfigError, match=r"demo has 2 replica\(s\), counted from 0; not 2"):
        CliRunner().invoke(root, argv, catch_exceptions=False)
