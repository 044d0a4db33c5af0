"""Leftovers on disk: unused images and old logs are found, and what is needed is not."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from hpc import disk_usage
from hpc.cli import clean, main
from hpc.model import ServiceSpec
from hpc.state import directory

if TYPE_CHECKING:
    from pathlib import Path

MONTH_S = 31 * 86400.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a state directory with images, logs and a service that uses an image."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    root = directory.home(str(tmp_path / "home"))
    images = directory.images_dir(root)
    images.mkdir(parents=True)
    for name in ("used.sif", "named.sif", "unused.sif", "unused.sif.log"):
        (images / name).write_bytes(b"x" * 10_000)
    spec = ServiceSpec("a", "vllm", "vllm", "m", image=str(images / "used.sif"))
    directory.save_spec(root, spec)
    for name, age_s in (("build-new", 0.0), ("build-old", MONTH_S)):
        folder = directory.plain_job_dir(root, name)
        folder.mkdir(parents=True)
        (folder / "1_0_log.out").write_text("built")
        _age(folder / "1_0_log.out", age_s)
        _age(folder, age_s)
    log = directory.connections_dir(root) / "connect-8081.log"
    log.parent.mkdir(parents=True)
    log.write_text("lines")
    _age(log, MONTH_S)
    return root


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_nothing_names_is_found(home: Path) -> None:
    found = disk_usage.leftovers(home, kept=["/images/named.sif"])
    assert {(one.kind, one.path.name) for one in found} == {
        ("image", "unused.sif"),
        ("log", "build-old"),
        ("log", "connect-8081.log"),
    }
    assert all(one.size > 0 for one in found)


def test_nothing_goes_without_a_word_and_images_only_on_request(home: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(main.root, ["clean", *words, "--home", str(home)])
        assert done.exit_code == 0, done.output
        return done.output

    def there() -> set[str]:
        return {path.name for path in home.rglob("*")}

    before = there()
    assert "next: hpc-serve clean --yes removes 2 of them" in run()
    assert there() == before
    run("--yes", "--older", "8w")
    assert there() == before
    run("--yes")
    assert before - there() == {"build-old", "connect-8081.log"}
    listed = json.loads(run("--json", "--images"))
    assert {one["path"].rpartition("/")[2] for one in listed} == {"unused.sif", "named.sif"}
    run("--yes", "--images")
    assert not {"unused.sif", "named.sif"} & there()
    assert "used.sif" in there()


def test_an_age_is_a_number_with_a_unit(home: Path) -> None:
    done = CliRunner().invoke(main.root, ["clean", "--older", "7", "--home", str(home)])
    assert done.exit_code == 2
    assert "'7' is not an age; allowed: 12h, 7d, 4w" in done.output


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 kB"), (12_000, "12 kB"), (4_100_000, "4.1 MB"), (2e9, "2.0 GB")]
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert clean.size(int(count)) == text
