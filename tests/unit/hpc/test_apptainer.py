"""Apptainer's command lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpc import apptainer

if TYPE_CHECKING:
    from hpc.model import Accelerator


@pytest.mark.parametrize(
    ("accelerator", "flags"), [("cuda", ["--nv"]), ("rocm", ["--rocm"]), ("none", [])]
)
def test_exec_shows_nothing_of_the_caller(accelerator: Accelerator, flags: list[str]) -> None:
    argv = apptainer.exec_argv(
        "/i/engine.sif",
        ("serve", "--x"),
        run_dir="/tmp/r",
        binds=("type=bind,source=/r,destination=/r", "/m:/m:ro"),
        accelerator=accelerator,
        extra=("--fakeroot",),
    )

    assert argv == (
        *("apptainer", "exec", "--cleanenv", "--no-eval", "--no-mount", "cwd"),
        *("--home", "/tmp/r/home", "--pwd", "/tmp/r", *flags),
        *("--mount", "type=bind,source=/r,destination=/r", "--bind", "/m:/m:ro"),
        *("--fakeroot", "/i/engine.sif", "serve", "--x"),
    )


def test_variables_go_by_environment_and_foreign_ones_are_dropped() -> None:
    base = {"PATH": "/bin", "APPTAINERENV_X": "1", "SINGULARITYENV_Y": "2", "APPTAINER_BIND": "/s"}

    assert apptainer.container_env({"KEY": "secret"}, base) == {
        "PATH": "/bin",
        "APPTAINER_BIND": "/s",
        "APPTAINERENV_KEY": "secret",
    }


@pytest.mark.parametrize(
    ("version", "prefixes"),
    [
        ("apptainer version 1.3.4-1.el9\n", {"APPTAINERENV_"}),
        ("singularity-ce version 4.1.5-jammy\n", {"SINGULARITYENV_"}),
        ("SingularityPRO version 3.11.5\n", {"SINGULARITYENV_"}),
        ("singularity version 3.8.7\n", {"SINGULARITYENV_"}),
        ("", {"APPTAINERENV_", "SINGULARITYENV_"}),
        ("my own wrapper 1.0\n", {"APPTAINERENV_", "SINGULARITYENV_"}),
    ],
)
def test_each_program_gets_the_variables_that_it_reads(version: str, prefixes: set[str]) -> None:
    base = {"PATH": "/bin", "APPTAINERENV_KEY": "of another", "SINGULARITYENV_KEY": "of another"}
    found = apptainer.container_env({"KEY": "secret"}, base, apptainer.prefixes(version))
    assert found == {"PATH": "/bin"} | {f"{prefix}KEY": "secret" for prefix in prefixes}


def test_build_reads_a_definition_and_binds() -> None:
    argv = apptainer.build_argv(
        Path("/i/x.sif"), Path("/d/x.def"), binds=("/w:/w",), extra=("--fakeroot",), program="a"
    )

    assert argv == ("a", "build", "--bind", "/w:/w", "--fakeroot", "/i/x.sif", "/d/x.def")


SHELL = {
    "PATH": "/bin",
    "APPTAINER_BIND": "/scratch",
    "SINGULARITY_BINDPATH": "/data:/d",
    "APPTAINER_TMPDIR": "/tmp/a",
    "APPTAINER_DOCKER_PASSWORD": "hidden",
    "APPTAINER_NET": "1",
    "SINGULARITY_NETWORK": "none",
    "APPTAINER_HOME": "",
    "APPTAINERENV_X": "1",
}


def test_a_shells_options_do_not_change_the_container() -> None:
    env = apptainer.container_env({"KEY": "k"}, SHELL)

    kept = ("PATH", "APPTAINER_BIND", "SINGULARITY_BINDPATH", "APPTAINER_TMPDIR")
    hidden = ("APPTAINER_DOCKER_PASSWORD", "APPTAINER_HOME")
    assert set(env) == {*kept, *hidden, "APPTAINERENV_KEY"}


def test_what_a_shell_says_to_apptainer_is_told() -> None:
    assert apptainer.shell_notes(SHELL) == (
        "APPTAINER_BIND of this shell is honoured: /scratch is bound too",
        "SINGULARITY_BINDPATH of this shell is honoured: /data:/d is bound too",
        "APPTAINER_NET, SINGULARITY_NETWORK: no effect; write options under apptainer_args",
        "APPTAINERENV_X: no effect; write variables under env",
    )
    assert apptainer.shell_notes({"PATH": "/bin", "APPTAINER_CACHEDIR": "/c"}) == ()
