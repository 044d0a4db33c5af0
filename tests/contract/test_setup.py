"""`hpc-serve init` on the fake Slurm, and on a machine without any."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from hpc import own_source
from tests.fakes.slurm import FakeSlurm
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSlurm]:
    made = FakeSlurm.install(tmp_path / "slurm")
    yield made
    made.close()


def init(home: Path, *options: str, path: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "hpc", "init", *options],
        cwd=home,
        env={"HOME": str(home), "PATH": path, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_it_writes_two_files_and_no_third_time(fake: FakeSlurm, tmp_path: Path) -> None:
    home, path = tmp_path / "home", f"{fake.bin}:/usr/bin:/bin"
    first = init(home, path=path)
    models, site = home / "models.yaml", home / ".config/hpc-serve/site.yaml"
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == [f"wrote {models}", f"wrote {site}"]
    assert "partition: gpu" in models.read_text()
    assert "partition: cpu" in site.read_text()
    assert "takes no job here without an account" in site.read_text()
    assert "gets 30 s to end (KillWait)" in site.read_text()

    models.write_text("mine")
    second = init(home, path=path)
    assert second.returncode == 2
    assert second.stderr.startswith(f"hpc-serve: {models} exists already\n")
    assert models.read_text() == "mine"

    third = init(home, "--force", path=path)
    assert third.returncode == 0
    assert "version: 1" in models.read_text()
    # Where ``connect`` finds the program on this machine.
    recorded = (home / ".config/hpc-serve" / own_source.BIN_PATH).read_text()
    assert recorded == f"{Path(sys.executable).parent}\n"


def test_it_asks_for_the_users_accounts_and_partitions(fake: FakeSlurm, tmp_path: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    fake.set(
        accounting=True,
        associations=["phys||normal,long|normal", "ml|gpu|normal|"],
        users=["phys"],
        partitions={
            "cpu": "cpu*|up|1-00:00:00|1:00:00|2|4|16000|(null)|drained",
            "more": "more|up|infinite|n/a|2|64|1|(null)|idle",
            "gpu": "gpu|up|infinite|n/a|2|64|512000|gpu:h100:2(S:0-1),gpu:1g.5gb:7|mixed",
        },
        rules=[
            "PartitionName=gpu AllowGroups=ALL AllowAccounts=ml AllowQos=ALL State=UP",
            "PartitionName=more AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL State=UP",
        ],
    )
    home = tmp_path / "home"
    assert init(home, path=f"{fake.bin}:/usr/bin:/bin").returncode == 0
    (entry,) = yaml.safe_load((home / "models.yaml").read_text())["models"]
    asked = entry["resources"]
    assert (asked["partition"], asked["account"], asked["gpu_type"]) == ("gpu", "ml", "h100")
    site = (home / ".config/hpc-serve/site.yaml").read_text()
    assert yaml.safe_load(site)["resources"] == {"partition": "more"}
    assert "#   cpu*: 2 nodes" in site
    assert "2 nodes down or drained" in site
    asked_of = [call for call in fake.calls("sacctmgr") if f"user={user}" in call]
    assert ["cluster=fake" in call for call in asked_of] == [True]


def test_a_site_file_alone_is_enough_to_refuse(fake: FakeSlurm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    site = home / ".config/hpc-serve/site.yaml"
    site.parent.mkdir(parents=True)
    site.write_text("mine")
    done = init(home, path=f"{fake.bin}:/usr/bin:/bin")
    assert done.returncode == 2
    assert not (home / "models.yaml").exists()


def test_where_slurm_does_not_answer_nothing_is_written(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.set(controller="down")
    done = init(tmp_path / "home", path=f"{fake.bin}:/usr/bin:/bin")
    assert done.returncode == 4
    assert done.stderr.startswith("hpc-serve: Slurm did not answer: sinfo: unable to contact")
    assert os.listdir(tmp_path / "home") == []  # noqa: PTH208


def test_without_slurm_the_files_describe_this_machine(tmp_path: Path) -> None:
    done = init(tmp_path / "home", "--dir", "fresh", path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "container: none" in (tmp_path / "home/fresh/models.yaml").read_text()


def test_where_the_site_file_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.config").write_text("a file where a folder should be")
    done = init(tmp_path / "home", path=str(tmp_path))
    assert done.returncode == 5
    assert not (tmp_path / "home/models.yaml").exists()
