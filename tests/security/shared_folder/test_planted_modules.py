"""Modules that others put into the folder a user works in never run as the user (CWE-427)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.fakes.slurm import FakeSlurm
from tests.security.shared_folder.planted import (
    PROJECT,
    SharedFolder,
    Victim,
    bare_pythons,
    pythons,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 240.0
MODEL = PROJECT / "examples/demo-model/demo-f16.gguf"
ENGINE = ("--engine=llamacpp", "--container=none", f"--model={MODEL}")
LAUNCHER = PROJECT / "hpc/processes/run_module.py"


def wait(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


@pytest.fixture
def shared(tmp_path: Path) -> SharedFolder:
    return SharedFolder.make(tmp_path)


@pytest.fixture(params=list(pythons().values()), ids=list(pythons()))
def victim(
    request: pytest.FixtureRequest, shared: SharedFolder, tmp_path: Path
) -> Iterator[Victim]:
    folder = tmp_path / "victim"
    folder.mkdir(mode=0o700)
    made = Victim(shared, request.param, folder, {"HPC_SERVE_CLUSTER": "local"})
    yield made
    made.end()


@pytest.fixture
def fake(victim: Victim, tmp_path: Path) -> Iterator[FakeSlurm]:
    made = FakeSlurm.install(tmp_path / "slurm")
    victim.extra = {"PATH": f"{made.bin}:{os.environ['PATH']}"}
    yield made
    made.close()


@pytest.mark.parametrize("python", bare_pythons().values(), ids=bare_pythons().keys())
def test_the_launcher_runs_nothing_planted(python: str, shared: SharedFolder) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(shared.path)}
        return subprocess.run(
            [python, *argv], cwd=shared.path, env=env, capture_output=True, text=True, check=False
        )

    done = run(str(LAUNCHER), "hpc.processes.run_module", "hpc.version", "x")
    assert done.returncode == 0, done.stderr
    assert shared.ran() == ""
    run("-m", "hpc.version")  # the plants would run, then
    assert shared.ran()


def test_a_gateway_in_the_background(victim: Victim, shared: SharedFolder) -> None:
    victim.type("gateway", "start", "--port", "0")
    victim.type("gateway", "ensure", "--json")
    victim.type("gateway", "stop")
    assert shared.ran() == ""


def test_a_gateway_that_ensure_starts_in_the_foreground_too(
    victim: Victim, shared: SharedFolder
) -> None:
    victim.type("gateway", "ensure", "--json")
    victim.type("gateway", "stop")
    with subprocess.Popen(
        victim.argv("gateway", "run", "--port", "0"),
        env=victim.environment(),
        cwd=victim.folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        while "listening on" not in (line := running.stderr.readline()):
            assert line, "the gateway ended"
        running.send_signal(signal.SIGTERM)
        running.stderr.read()
    assert shared.ran() == ""


def test_a_service_on_this_machine_with_its_engine_and_sidecar(
    victim: Victim, shared: SharedFolder
) -> None:
    setup = victim.folder / "models.yaml"
    entry: dict[str, object] = {
        "name": "m",
        "backend": "llamacpp",
        "model": str(MODEL),
        "container": "none",
    }
    entries: list[dict[str, object]] = [
        entry,
        {**entry, "name": "with-setup", "setup": ["export PYTHONPATH=.:"]},
    ]
    setup.write_text(json.dumps({"version": 1, "models": entries}))

    def phases() -> set[str]:
        found = json.loads(victim.type("ls", "--json").stdout)
        return {one["phase"] for service in found for one in service["replicas"]}

    for each in entries:
        victim.type("submit", str(each["name"]), "--models", str(setup))
    # An interpreter without llama-cpp-python gets as far as the engine's first import.
    wait(lambda: phases() <= {"READY", "FAILED"}, "the replicas are up or failed")
    assert shared.ran() == ""
    victim.type("stop", "--all")


def job_alone(script: str, victim: Victim) -> subprocess.CompletedProcess[str]:
    """Run a job as sbatch --export=NONE does: the script alone, in the folder of the submission."""
    env = {
        "HOME": str(victim.folder),
        "PATH": os.environ["PATH"],
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_NTASKS": "1",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "PYTHONPATH": ":",  # as a login shell's profile may say
    }
    return subprocess.run(
        ["bash", "-s"],
        input=script,
        env=env,
        cwd=victim.shared.path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_job_without_the_variables_of_its_submission(
    victim: Victim, shared: SharedFolder, fake: FakeSlurm
) -> None:
    fake.set(slots=0)
    models = victim.folder / "models.yaml"
    entry = {"name": "m", "backend": "llamacpp", "model": str(MODEL), "container": "none"}
    entry |= {"python": "/no/python"}
    models.write_text(json.dumps({"version": 1, "models": [entry]}))
    victim.type("submit", "m", "--time=10", "--models", str(models))
    (job,) = fake.jobs()
    folder = victim.home / "services/m/jobs"
    (folder / f"{job['id']}_submitted.pkl").rename(folder / "1_submitted.pkl")
    done = job_alone(fake.script(job["id"]), victim)
    assert shared.ran() == "", done.stderr
    assert "/no/python" in done.stderr  # the task itself ran


@pytest.mark.parametrize("by_scrontab", [True, False], ids=["scrontab", "jobs"])
def test_a_nightly_batch(
    victim: Victim, shared: SharedFolder, fake: FakeSlurm, *, by_scrontab: bool
) -> None:
    fake.set(scrontab=by_scrontab, slots=0)
    (shared.path / "in.jsonl").write_text('{"prompt": "hi"}\n')
    out = f"-o{victim.folder}/out-{{date}}.jsonl"
    every = ("--every", "0 22 * * *", "--time=10")
    victim.type("batch", "submit", "in.jsonl", out, *ENGINE, *every)
    if by_scrontab:
        line = (fake.folder / "scrontab").read_text().splitlines()[-2].split(" ", 5)[5]
        done = subprocess.run(
            ["sh", "-c", line],
            env={**victim.environment(), "PYTHONPATH": ""},
            cwd=shared.path,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    else:
        (job,) = fake.jobs()
        (folder,) = (victim.home / "jobs").iterdir()
        (folder / f"{job['id']}_submitted.pkl").rename(folder / "1_submitted.pkl")
        script = fake.script(job["id"]).replace("exec ", f"export PATH={fake.bin}:$PATH\nexec ")
        done = job_alone(script, victim)
    assert shared.ran() == "", done.stderr
    runs = json.loads((victim.home / "schedules/every-1/runs.json").read_text())
    assert [run["result"] for run in runs] == ["submitted"], (runs, done.stderr)


def test_a_tunnel_in_the_background(victim: Victim, shared: SharedFolder, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (tools / "ssh").chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    done = victim.type("connect", "login", "--background", "--port=0", check=False, env=path)
    assert "cannot reach login" in done.stderr  # the second process got as far as ssh
    assert shared.ran() == ""


def test_the_batch_processor(victim: Victim, shared: SharedFolder) -> None:
    code = (
        "import sys\nsys.path.pop(0)\nimport os, pathlib, time\n"
        f"os.chdir({str(shared.path)!r})\nos.environ['PYTHONPATH'] = {f'{PROJECT}:'!r}\n"
        "from hpc.state import directory\n"
        "from gateway_lite.api.batches.processor import ProcessorStarter\n"
        "root = directory.home()\nstarter = ProcessorStarter(root, 'here')\nstarter._start()\n"
        "beat = root / 'openai-batches/processors'\n"
        f"end = time.monotonic() + {PATIENCE_S}\n"
        "while not list(beat.glob('*')) and time.monotonic() < end: time.sleep(0.1)\n"
        "starter._child.terminate()\nprint(starter._child.wait(), *beat.iterdir())\n"
    )
    done = subprocess.run(
        [victim.python, "-c", code],
        env=victim.environment(),
        cwd=victim.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    assert shared.ran() == ""
