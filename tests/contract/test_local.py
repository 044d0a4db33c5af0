"""Real jobs of submitit on this machine."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc.errors import SchedulerError, SubmitError
from hpc.jobs import api as jobs
from hpc.jobs import local
from hpc.model import JobHandle, JobRequest, JobState, JobStatus, Resources
from tests.contract.local_tasks import Again, Drain, Fail, Show, Stubborn
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[2]


@dataclass
class Machine:
    """This machine, as a cluster."""

    root: Path
    submitted: list[JobHandle]

    def submit(self, task: Callable[[], Any], **options: Any) -> JobHandle:
        resources = options.pop("resources", Resources())
        request = JobRequest("test", resources, **options)
        (handle,) = jobs.submit(task, request, self.root, cluster="local")
        self.submitted.append(handle)
        return handle

    def until(self, handle: JobHandle, *wanted: JobState) -> JobStatus:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = jobs.statuses([handle])[handle.key]
            if found.state in wanted or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    made = Machine(tmp_path / "state", [])
    yield made
    local.cancel(made.submitted, grace_s=0)


def read(path: Path) -> str:
    """Return a file's text once there is some."""
    deadline = time.monotonic() + PATIENCE_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text()


def test_several_jobs_run_or_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third finds no GPU of its own, so that the two before it are ended."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    task, gpu = functools.partial(time.sleep, 60), Resources(gpus=1)
    with pytest.raises(SubmitError, match="GPU"):
        jobs.submit(task, JobRequest("several", gpu, count=3), machine.root, cluster="local")
    begun = [path.name.partition("_")[0] for path in machine.root.rglob("*_submitted.pkl")]
    folder = str(machine.root / "jobs" / "several")
    left = [JobHandle(job_id, "local", folder) for job_id in begun]
    states = [answer.state for answer in jobs.statuses(left).values()]
    assert len(states) == 2
    assert not set(states) & {JobState.PENDING, JobState.RUNNING}


def test_a_job_runs_and_is_done(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Show(str(tmp_path / "shown")))
    assert jobs.statuses([handle])[handle.key].state is JobState.RUNNING
    found = machine.until(handle, JobState.DONE)
    assert (found.state, found.exit_code) == (JobState.DONE, 0)
    session, stdin, devices, *names = read(tmp_path / "shown").splitlines()
    assert int(session) == int(handle.job_id) != os.getsid(0)
    assert stdin == "/dev/null"
    assert devices == ""
    assert not {"SLURM_JOB_ID"} & set(names)
    assert "Job completed successfully" in jobs.logs(handle)[0].read_text()


def test_its_files_are_named_by_it_and_nothing_else_is_left(
    machine: Machine, tmp_path: Path
) -> None:
    handle = machine.submit(Show(str(tmp_path / "shown")))
    machine.until(handle, JobState.DONE)
    ends = ["_0_log.err", "_0_log.out", "_0_result.pkl", "_host", "_submitted.pkl"]
    names = sorted(path.name for path in Path(handle.folder).iterdir())
    assert names == [*(f"{handle.job_id}{end}" for end in ends), "controller.log"]


def test_a_job_that_raises_has_failed_and_says_why(machine: Machine) -> None:
    found = machine.until(machine.submit(Fail()), JobState.FAILED)
    assert (found.state, found.reason, found.exit_code) == (JobState.FAILED, "see above", 1)


def test_setup_lines_run_first_and_keep_the_process_id(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Show(str(tmp_path / "shown")), setup=["export GREETING='a b'"])
    assert machine.until(handle, JobState.DONE).state is JobState.DONE
    assert "GREETING" in read(tmp_path / "shown").splitlines()


def test_a_setup_line_that_fails_ends_the_job(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Show(str(tmp_path / "shown")), setup=["false"])
    found = machine.until(handle, JobState.FAILED)
    assert found.reason == "its process ended without a result"
    assert not (tmp_path / "shown").exists()


def test_a_job_gets_the_gpus_it_asked_for(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e,7")
    machine.submit(Show(str(tmp_path / "shown")), resources=Resources(gpus=2))
    assert read(tmp_path / "shown").splitlines()[2] == "3,GPU-5e"


def test_draining_lets_a_job_end_by_itself(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Drain(str(tmp_path / "drained")))
    assert read(tmp_path / "drained") == "ready"
    jobs.drain([handle])
    machine.until(handle, JobState.FAILED, JobState.DONE)
    assert read(tmp_path / "drained") == "told"


def test_cancelling_ends_what_does_not_listen(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Stubborn(str(tmp_path / "pids")))
    pids = [int(word) for word in read(tmp_path / "pids").split()]
    local.cancel([handle], grace_s=0.5)
    found = jobs.statuses([handle])[handle.key]
    assert (found.state, found.reason) == (JobState.FAILED, "its process ended without a result")
    assert not any(runs(pid) for pid in pids)
    local.cancel([handle])


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_job_that_was_killed_has_failed(machine: Machine, tmp_path: Path) -> None:
    handle = machine.submit(Drain(str(tmp_path / "drained")))
    read(tmp_path / "drained")
    os.killpg(int(handle.job_id), signal.SIGKILL)
    assert machine.until(handle, JobState.FAILED).state is JobState.FAILED


def test_a_job_outlives_the_command_and_its_terminal(machine: Machine, tmp_path: Path) -> None:
    """The command runs as leader of a session, as a login shell does, and is hung up."""
    code = f"""
import os, signal, sys
from pathlib import Path
from hpc.jobs import api as jobs
from hpc.model import JobRequest, Resources
from tests.contract.local_tasks import Drain
task, root = Drain({str(tmp_path / "drained")!r}), Path({str(machine.root)!r})
(handle,) = jobs.submit(task, JobRequest("test", Resources()), root, cluster="local")
print(handle.job_id, handle.folder, flush=True)
os.killpg(0, signal.SIGHUP)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == -signal.SIGHUP, done.stderr
    job_id, folder = done.stdout.split()
    handle = JobHandle(job_id, "local", folder)
    machine.submitted.append(handle)
    assert read(tmp_path / "drained") == "ready"
    assert jobs.statuses([handle])[handle.key].state is JobState.RUNNING
    jobs.cancel([handle])
    assert read(tmp_path / "drained") == "told"


def test_the_signal_before_the_walltime_starts_a_job_again(
    machine: Machine, tmp_path: Path
) -> None:
    """The signal comes from us, a minute being the shortest walltime there is."""
    handle = machine.submit(Again(str(tmp_path / "starts")))
    read(tmp_path / "starts")
    task = Path(f"/proc/{handle.job_id}/task/{handle.job_id}/children").read_text().split()
    os.kill(int(task[0]), signal.SIGUSR2)
    deadline = time.monotonic() + PATIENCE_S
    while read(tmp_path / "starts") != "xx":
        assert time.monotonic() < deadline, jobs.logs(handle)[1].read_text()
        time.sleep(0.05)
    assert jobs.statuses([handle])[handle.key].state is JobState.RUNNING


def test_a_job_of_another_machine_is_unknown_here(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "1_host").write_text("login7")
    handle = JobHandle("1", "local", str(folder))
    found = jobs.statuses([handle])[handle.key]
    assert (found.state, found.reason) == (JobState.UNKNOWN, "it runs on login7; ask there")
    with pytest.raises(SchedulerError, match="runs on login7, not on this machine"):
        jobs.cancel([handle])


def test_a_process_id_that_was_used_again_is_not_our_job(machine: Machine, tmp_path: Path) -> None:
    """Process 1 of this machine is not one of ours, and is left alone."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "1_host").write_text(socket.gethostname())
    handle = JobHandle("1", "local", str(folder))
    assert jobs.statuses([handle])[handle.key].state is JobState.FAILED
    jobs.cancel([handle])
    assert jobs.statuses([replace(handle, job_id="2")])[f"{folder}/2"].state is JobState.GONE
