"""Files that hpc-serve finds by itself are used only if nobody else could have written them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc import config, render
from hpc.errors import ConfigError
from hpc.model import Resources, ServiceSpec
from hpc.render import SbatchJob
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import wait_until
from tests.security.shared_folder.planted import SharedFolder, Victim, pythons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOREIGN = 64001
ENTRY = {"name": "m", "backend": "llamacpp", "model": "org/m:m.gguf", "container": "none"}
JOB = SbatchJob("true", "/", "/o", "/e", "job")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder a user works in, safe at first, with a models.yaml."""
    made = tmp_path / "work"
    made.mkdir()
    made.chmod(0o755)
    for name in [name for name in os.environ if name.startswith("HPC_SERVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(made)
    write(made / "models.yaml", ENTRY)
    return made


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1, "models": entries}))
    path.chmod(0o644)


def group_can_write_to_it(path: Path) -> str:
    path.chmod(0o664)
    return f"chmod g-w {path}"


def all_can_write_to_its_folder(path: Path) -> str:
    path.parent.chmod(0o777)
    return f"chmod go-w {path.parent}"


def it_belongs_to_somebody_else(path: Path) -> str:
    if os.getuid() != 0:
        return group_can_write_to_it(path)
    os.chown(path, FOREIGN, FOREIGN)
    return "name the file by a flag"


def its_folder_belongs_to_somebody_else(path: Path) -> str:
    if os.getuid() != 0:
        return all_can_write_to_its_folder(path)
    os.chown(path.parent, FOREIGN, FOREIGN)
    return "name the file by a flag"


def it_is_a_link_of_somebody_else(path: Path) -> str:
    real = path.rename(path.parent.parent / "other.yaml")
    path.symlink_to(real)
    if os.getuid() != 0:
        return group_can_write_to_it(real)
    os.chown(path, FOREIGN, FOREIGN, follow_symlinks=False)
    return "name the file by a flag"


WEAK = [
    group_can_write_to_it,
    all_can_write_to_its_folder,
    it_belongs_to_somebody_else,
    its_folder_belongs_to_somebody_else,
    it_is_a_link_of_somebody_else,
]


@pytest.mark.parametrize("weaken", WEAK)
@pytest.mark.parametrize("where", ["work", "config"])
def test_a_models_file_that_others_could_have_written(
    work: Path, tmp_path: Path, where: str, weaken: Callable[[Path], str]
) -> None:
    path = work / "models.yaml"
    if where == "config":
        path = path.replace(tmp_path / "models.yaml")
        (tmp_path / "config/hpc-serve").mkdir(parents=True)
        path = path.replace(tmp_path / "config/hpc-serve/models.yaml")
    loaded = config.load()
    assert (loaded.models_file, loaded.found) == (path, True)
    repair = weaken(path)
    with pytest.raises(ConfigError, match="others may have written it") as caught:
        config.load()
    assert str(caught.value).startswith(f"{path} was found but is not used")
    assert repair in str(caught.value.hint)
    named = config.load(models_file=str(path))  # as the user's own word
    assert (list(named.services), named.found) == (["m"], False)


def test_our_own_file_in_a_sticky_folder_is_used(work: Path) -> None:
    work.chmod(0o1777)
    assert list(config.load().services) == ["m"]


@pytest.mark.parametrize("weaken", WEAK)
def test_a_site_file_that_others_could_have_written(
    work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weaken: Callable[[Path], str],
) -> None:
    del work
    path = tmp_path / "config/hpc-serve/site.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("apptainer: evil\n")
    path.chmod(0o644)
    assert config.load().site.apptainer == "evil"
    weaken(path)
    with pytest.raises(ConfigError, match="others may have written it"):
        config.load()
    monkeypatch.setenv("HPC_SERVE_SITE", str(path))
    assert config.load().site.apptainer == "evil"


def test_a_relative_configuration_folder_is_ignored(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "planted/hpc-serve").mkdir(parents=True)
    (work / "planted/hpc-serve/site.yaml").write_text("apptainer: evil\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", "planted")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load().site.apptainer == "apptainer"


def test_an_image_beside_models_yaml_is_used_by_its_path_alone(work: Path, tmp_path: Path) -> None:
    entry = {"name": "v", "backend": "vllm", "model": "org/v"}
    write(work / "models.yaml", entry, {**entry, "name": "w", "image": "./vllm.sif"})
    (work / "vllm.sif").touch()
    built = tmp_path / "state/images/vllm.sif"
    found = config.load().services
    assert found["v"].image == str(built)
    assert found["w"].image == str(work / "vllm.sif")
    assert config.load(flags={"image": "vllm.sif"}).services["w"].image == str(built)


def test_a_folder_in_the_way_of_a_hugging_face_id(work: Path) -> None:
    entry = {"name": "v", "backend": "vllm", "model": "org/v"}
    (work / "org/v").mkdir(parents=True)
    found = config.load(adhoc=entry).services["v"]
    assert found.model == str(work / "org/v")
    (work / "org/v").chmod(0o777)
    with pytest.raises(ConfigError, match="others may have written it"):
        config.load(adhoc=entry)
    found = config.load(adhoc={**entry, "model": "./org/v"}).services["v"]
    assert Path(found.model) == work / "org/v"


@pytest.mark.parametrize("weaken", WEAK)
@pytest.mark.parametrize("which", ["vllm.sbatch.j2", "base.sbatch.j2", "parts/x.j2"])
def test_templates_that_others_could_have_written(
    work: Path, which: str, weaken: Callable[[Path], str]
) -> None:
    folder = work / "templates"
    spec = ServiceSpec("m", "vllm", "vllm", "org/m", image="/i.sif", resources=Resources())
    texts = {
        "vllm.sbatch.j2": '{% extends "base.sbatch.j2" %}',
        "base.sbatch.j2": "#!/bin/sh\n{% include 'parts/x.j2' %}\n",
        "parts/x.j2": "echo ours",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    assert "echo ours" in render.sbatch(spec, JOB, folder)
    weaken(folder / which)
    with pytest.raises(ConfigError, match="others may have written it: "):
        render.sbatch(spec, JOB, folder)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "victim").mkdir()
    python = next(iter(pythons().values()))
    made = Victim(SharedFolder(shared, tmp_path / "log"), python, tmp_path / "victim")
    yield made
    made.type("gateway", "stop")
    made.end()


def test_a_running_gateway_keeps_its_models_when_the_found_file_becomes_weak(
    victim: Victim,
) -> None:
    models = victim.shared.path / "models.yaml"

    def static(name: str, url: str) -> dict[str, str]:
        return {"name": name, "backend": "vllm", "backend_url": url}

    def served() -> list[str]:
        import httpx  # noqa: PLC0415 - beside the commands

        headers = {"authorization": f"Bearer {access['key']}"}
        url = f"http://{access['host']}:{access['port']}/v1/models"
        found = httpx.get(url, headers=headers, trust_env=False).json()["data"]
        return sorted(one["id"] for one in found)

    def refused() -> str:
        told = json.loads(victim.type("gateway", "status", "--json").stdout)
        return str(told[0]["reload"]["refused"] or "")

    with serve(Engine()) as url:
        write(models, static("a", url))
        access = json.loads(victim.type("gateway", "ensure", "--json").stdout)
        assert served() == ["a"]
        write(models, static("a", url), static("b", url))
        models.chmod(0o666)
        wait_until(lambda: "chmod go-w" in refused())
        assert served() == ["a"]
        models.chmod(0o644)
        wait_until(lambda: served() == ["a", "b"])
        victim.shared.path.chmod(0o777)  # now others could replace the file
        wait_until(lambda: str(victim.shared.path) in refused())
        write(models, static("evil", url))
        assert victim.type("gateway", "reload", check=False).returncode == ConfigError.exit_code
        assert served() == ["a", "b"]
