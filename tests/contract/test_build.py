"""Image builds are whole or nothing, with a program in Apptainer's place; the lab has the real."""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc.errors import CommandError, ConfigError, StateError
from hpc.images import build as image_build
from hpc.images.build import BuildImage
from hpc.processes import by_pid
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

FAKE = """#!/bin/sh
# apptainer build [--bind SRC:DEST]... IMAGE DEFINITION
echo "INFO:    Starting build"
for word; do previous=$image image=$definition definition=$word; done
[ "$1" = build ] || exit 64
{body}
"""
GOOD = 'cat "$definition" > "$image"; for word; do echo "$word"; done'
LOOK = (
    GOOD
    + """; env
for word; do case $word in *:/opt/hpc-serve-build:ro) told=${word%%:*};; esac; done
cat "$told/pip.conf" "$told/requirements-0.txt" | grep -v pw-"""
)
BAD = 'echo half > "$image"; echo "E: Unable to locate package" ; echo "FATAL:   %post"; exit 255'
SLOW = 'echo half > "$image"; echo begun $$; exec sleep 60'


def order(folder: Path, body: str, **changes: object) -> BuildImage:
    program = folder / "apptainer"
    program.write_text(FAKE.replace("{body}", body))
    program.chmod(0o755)
    made = BuildImage("llamacpp-debian", str(folder / "images" / "x.sif"), program=str(program))
    return replace(made, **changes)  # type: ignore[arg-type]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "images").iterdir())


def test_a_whole_image_appears_with_its_definition(tmp_path: Path) -> None:
    said: list[str] = []

    made = image_build.build(order(tmp_path, GOOD), tell=said.append)

    assert made.read_text() == made.with_suffix(".def").read_text()
    assert made.read_text().startswith("Bootstrap: docker\nFrom: debian:forky-slim\n")
    assert "INFO:    Starting build" in said
    assert left(tmp_path) == ["x.build.log", "x.def", "x.sif"]


def test_binds_and_arguments_reach_the_program(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    made = order(tmp_path, GOOD, wheel_dir=str(tmp_path / "wheels"), apptainer_args=("--fakeroot",))
    said: list[str] = []

    image_build.build(made, tell=said.append)

    assert f"{tmp_path}/wheels:/opt/hpc-serve-wheels" in said
    assert "--fakeroot" in said
    assert any(line.endswith("/settings:/opt/hpc-serve-build:ro") for line in said)


def test_pips_settings_reach_the_program_and_what_is_left_out_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "pins.txt").write_text("a<2\n")
    (tmp_path / "netrc").write_text("machine h.example login u password pw-netrc\n")
    monkeypatch.setenv("PIP_CONSTRAINT", f"{tmp_path}/pins.txt")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path}/more")
    monkeypatch.setenv("PIP_INDEX_URL", "http://u:pw-index@h.example/simple")
    monkeypatch.setenv("PIP_KEYRING_PROVIDER", "import")
    monkeypatch.setenv("NETRC", f"{tmp_path}/netrc")
    said: list[str] = []

    made = image_build.build(order(tmp_path, LOOK), tell=said.append)

    notes = [line for line in said if line.startswith(image_build.NOTE)]
    assert said[: len(notes)] == notes
    left_out = "pip's setting keyring-provider is left out: it names a program of this machine"
    assert f"{image_build.NOTE}{left_out}" in notes
    assert f"{tmp_path}/more:{tmp_path}/more:ro" in said
    assert "constraint = /opt/hpc-serve-build/requirements-0.txt" in said
    assert "a<2" in said
    assert not [line for line in said if line.startswith(("PIP_", "NETRC"))]
    assert f"{tmp_path}/more" in made.with_suffix(".def").read_text()
    assert "pw-" not in "".join(said) + made.with_suffix(".def").read_text()


def test_a_failed_build_leaves_its_log_only(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"could not build .*: E: Unable to locate") as caught:
        image_build.build(order(tmp_path, BAD))

    assert left(tmp_path) == ["x.build.log"]
    assert str(tmp_path / "images/x.build.log") in str(caught.value.hint)


def test_a_failed_rebuild_keeps_the_image_that_was_there(tmp_path: Path) -> None:
    image_build.build(order(tmp_path, GOOD))
    before = (tmp_path / "images/x.sif").read_bytes()

    with pytest.raises(StateError, match="is there already"):
        image_build.build(order(tmp_path, GOOD))
    with pytest.raises(CommandError):
        image_build.build(order(tmp_path, BAD, force=True))

    assert (tmp_path / "images/x.sif").read_bytes() == before


def test_without_apptainer_it_says_where_to_build(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="apptainer-that-is-not-here") as caught:
        image_build.build(order(tmp_path, GOOD, program="apptainer-that-is-not-here"))

    assert "--in-job" in str(caught.value.hint)


def test_a_folder_to_show_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder /nowhere"):
        image_build.build(order(tmp_path, GOOD, binds=("/nowhere",)))


def test_an_order_can_be_a_jobs_task(tmp_path: Path) -> None:
    made = order(tmp_path, GOOD)

    pickle.loads(pickle.dumps(made))()

    assert (tmp_path / "images/x.sif").exists()


def test_a_build_that_is_interrupted_ends_with_all_it_started(tmp_path: Path) -> None:
    made = order(tmp_path, SLOW)
    code = "import pickle; from hpc.images.build import build; "
    code += f"build(pickle.loads({pickle.dumps(made)!r}))"
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not made.log.exists() or "begun" not in made.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    running.send_signal(signal.SIGINT)
    running.wait(PATIENCE_S)

    assert left(tmp_path) == ["x.build.log"]
    pid = int(re.findall(r"begun (\d+)", made.log.read_text())[0])
    assert by_pid.identity(pid) is None
