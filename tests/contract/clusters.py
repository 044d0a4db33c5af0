"""The clusters that the contract suites run on: a fake one here, and the lab's real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.fakes.slurm import FakeSlurm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.lab.slurmlab.lab import Lab

PROJECT = Path(__file__).parents[2]
HEAD = """
import dataclasses, functools, json, os, pathlib, subprocess, sys, time
from hpc import slurm
from hpc.jobs import api as jobs, submission
from hpc.state import directory, records
from hpc.errors import HpcServeError
from hpc.model import JobHandle, JobRequest, Resources, ServiceSpec

root = directory.home()

def sleep(seconds=60, name="test", **asked):
    return call(functools.partial(time.sleep, seconds), name, **asked)

def call(task, name="test", setup=(), **asked):
    asked = {"mem_mb": 100, "time_min": 10} | asked
    resources = Resources(**asked)
    return jobs.submit(task, JobRequest(name, resources, setup=setup), root)[0]

def until(handle, *states, patience=120):
    deadline = time.monotonic() + patience
    while True:
        found = jobs.statuses([handle])[handle.key]
        if found.state.value in states or time.monotonic() > deadline:
            return found
        time.sleep(0.2)

def attempt(action, *args, **options):
    try:
        return action(*args, **options)
    except HpcServeError as error:
        return [type(error).__name__, str(error)]

def unknown(job_id):
    return JobHandle(job_id, 'slurm', '')

def tell(value):
    print(json.dumps(value, default=lambda x: getattr(x, "value", None) or records.encode(x)))
"""


class Cluster(Protocol):
    """A cluster with a login node on which Python can be run as an ordinary user."""

    def python(self, code: str, *, env: Mapping[str, str] | None = None) -> Any:
        """Run code after `HEAD` on the login node; return what it told."""

    def outage(self, kind: str) -> AbstractContextManager[None]:
        """Let slurmctld be down, or silent, for a while."""

    def received(self, job_id: str) -> str:
        """Return the script that slurmctld keeps of a job."""


@dataclass(frozen=True)
class FakeCluster:
    """Programs on this machine that play Slurm; jobs are processes here."""

    fake: FakeSlurm
    home: Path

    @classmethod
    def start(cls, folder: Path) -> FakeCluster:
        """Set one up in a folder."""
        home = folder / "home"
        home.mkdir()
        return cls(FakeSlurm.install(folder / "slurm"), home)

    def stop(self) -> None:
        """End all of its jobs."""
        self.fake.close()

    def python(self, code: str, *, env: Mapping[str, str] | None = None) -> Any:
        """Run code after `HEAD`; return what it told."""
        path = f"{self.fake.bin}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.home), "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            [sys.executable, "-c", HEAD + code],
            env={**own, **(env or {})},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        return _told(done.stdout, done.stderr, done.returncode)

    @contextmanager
    def outage(self, kind: str) -> Iterator[None]:
        """Let slurmctld be down, or silent, for a while."""
        self.fake.set(controller=kind)
        try:
            yield
        finally:
            self.fake.set(controller="up")

    def received(self, job_id: str) -> str:
        """Return the script that sbatch got."""
        return self.fake.script(job_id)


@dataclass(frozen=True)
class LabCluster:
    """The lab: a real Slurm, and the project installed for all nodes."""

    lab: Lab

    def python(self, code: str, *, env: Mapping[str, str] | None = None) -> Any:
        """Run code after `HEAD` as the owner on the login node; return what it told."""
        words = [f"{name}={value}" for name, value in (env or {}).items()]
        argv = ["env", *words, "/opt/hpc-serve/bin/python", "-c", HEAD + code]
        done = self.lab.run("login", argv, check=False, timeout=280)
        return _told(done.stdout, done.stderr, done.returncode)

    @contextmanager
    def outage(self, kind: str) -> Iterator[None]:
        """Let slurmctld be down, or silent, for a while."""
        if kind == "down":
            self.lab.stop("login", "slurmctld")
        else:
            self.lab.signal("login", "slurmctld", signal.SIGSTOP)
        try:
            yield
        finally:
            if kind == "down":
                self.lab.start("login", "slurmctld")
            else:
                self.lab.signal("login", "slurmctld", signal.SIGCONT)
            self.lab.run("login", ["sh", "-c", "until sinfo; do sleep 0.2; done"], timeout=60)

    def received(self, job_id: str) -> str:
        """Return the script that slurmctld keeps of a job."""
        argv = ["scontrol", "write", "batch_script", job_id, "-"]
        return self.lab.run("login", argv).stdout


def _told(stdout: str, stderr: str, code: int) -> Any:
    if code != 0:
        raise AssertionError(f"exit status {code}\n{stdout}\n{stderr}")
    return json.loads(stdout.strip().rpartition("\n")[2])
