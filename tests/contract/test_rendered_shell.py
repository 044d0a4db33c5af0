"""Rendered scripts and definitions under the real shells and shellcheck."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hpc import render
from hpc.model import Resources
from hpc.render import SbatchJob

if TYPE_CHECKING:
    from pathlib import Path

JOB = SbatchJob(command="true", folder="/", stdout="/h/%j.out", stderr="/h/%j.err", job_name="job")
SMALL = Resources()
FULL = Resources(partition="gpu", gpus=2, gpu_type="h100", mem_mb=1024, time_min=480)
HOSTILE = ["a b", "it's", 'say "x"', "back\\slash", "#hash", "$(touch x)", "`x`", ";rm", "*", "ü"]


@pytest.mark.parametrize("template", ["vllm", "llamacpp", "batch", "gateway"])
@pytest.mark.parametrize("value", [*HOSTILE, "new\nline"])
def test_scripts_are_sound_shell(template: str, value: str, tmp_path: Path) -> None:
    """SC2016 is about a $ in single quotes, which is what quoting is for."""
    plain = value.replace("\n", " ")
    job = replace(
        JOB,
        command=shlex.join(["/bin/python", "-m", "x", f"/h/{value}"]),
        stdout=f"/h/{plain}/o",
        job_name=plain,
    )
    resources = replace(FULL, partition=plain, extra={"comment": plain})
    text = render.script(template, job, resources, setup=(f"export X={shlex.quote(value)}",))
    path = tmp_path / "job.sh"
    path.write_text(text)

    for tool in (["bash", "-n"], ["shellcheck", "--exclude=SC2016"]):
        done = subprocess.run([*tool, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + text


def test_the_command_runs_with_its_arguments_whole(tmp_path: Path) -> None:
    argument = 'it\'s\na "path" $HOME'
    code = "import os, sys; print([os.environ['SUBMITIT_EXECUTOR'], os.environ['X'], sys.argv[1]])"
    job = replace(JOB, command=shlex.join(["python3", "-c", code, argument]))
    path = tmp_path / "job.sh"
    path.write_text(render.script("llamacpp", job, SMALL, setup=("export X=1",)))

    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == repr(["slurm", "1", argument])


def test_a_setup_line_that_fails_ends_the_job_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    job = replace(JOB, command="echo went on")
    path.write_text(render.script("vllm", job, SMALL, setup=("false # no such module",)))

    done = subprocess.run(["bash", str(path)], capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "went on" not in done.stdout
    assert "a setup line of the job failed: false" in done.stderr


SECTION = re.compile(
    r"^%(setup|post|environment|runscript|test)\n(.*?)(?=^%|^Bootstrap:|\Z)",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("name", render.DEFINITIONS)
def test_definitions_are_sound_shell(name: str, tmp_path: Path) -> None:
    """SC2016 is about a $ in single quotes, which is what quoting is for."""
    sections = SECTION.findall(render.definition(name, folders=["/srv/it's here"]))

    assert {kind for kind, _ in sections} == {"setup", "post", "environment", "runscript", "test"}
    for number, (kind, body) in enumerate(sections):
        path = tmp_path / f"{number}-{kind}.sh"
        path.write_text(f"#!/bin/sh\n{body}")
        for tool in (["sh", "-n"], ["shellcheck", "--exclude=SC2016", "--shell=sh"]):
            done = subprocess.run([*tool, str(path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
