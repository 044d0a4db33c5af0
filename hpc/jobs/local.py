"""Jobs on the local machine: submitit's local controller, identified by its process id."""

from __future__ import annotations

import pickle
import shlex
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import SchedulerError, StateError, SubmitError
from hpc.model import JobState, JobStatus
from hpc.processes import by_pid, own_python, programs
from hpc.state import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import psutil

    from hpc.model import JobHandle
    from hpc.processes.programs import Process

CONTROLLER = "submitit.local._local"
KILL_S = 5.0
"""Seconds for the kernel to end killed processes."""

_children: dict[int, Process[str]] = {}
"""Controllers started by this very process, which stay zombies until polled."""


def start(
    folder: Path,
    command: str,
    *,
    env: Mapping[str, str],
    devices: Sequence[str] = (),
    minutes: int,
    grace_s: int,
    setup: Sequence[str] = (),
) -> int:
    """Start submitit's controller in its own session, without our terminal.

    The variables are those of submitit's ``start_controller``, which would keep our terminal
    and our session.

    Args:
        folder: folder of the job's pickle and logs.
        command: shell words that run the task.
        env: the environment to start from.
        devices: GPUs of the job, in the form of CUDA_VISIBLE_DEVICES.
        minutes: walltime of the job.
        grace_s: seconds before the walltime at which the task gets SIGUSR2.
        setup: shell lines before the task.

    Returns:
        The process id, which is the job's id.
    """
    argv, cwd = own_python.argv(CONTROLLER, str(folder)), folder
    if setup:
        # Setup lines run where the user is, and may change Python's variables: the job's folder
        # comes after. exec keeps the process id: submitit names the job's files by it.
        leave = ["export PYTHONSAFEPATH=1", shlex.join(["cd", str(folder)])]
        argv = ["bash", "-c", "\n".join(["set -e", *setup, *leave, f"exec {shlex.join(argv)}"])]
        cwd = Path.cwd()
    own = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(grace_s),
        "SUBMITIT_LOCAL_TIMEOUT_S": str(minutes * 60),
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_STDERR_TO_STDOUT": "",
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
    }
    variables = {**own_python.environment(env), **own, "PYTHONSAFEPATH": "1"}
    child = programs.spawn(argv, env=variables, cwd=cwd, log=folder / "controller.log")
    try:
        told = f"{socket.gethostname()}\n{by_pid.identity(child.pid) or ''}\n"
        files.write_text(_host_file(folder, str(child.pid)), told)
    except StateError:
        programs.stop(child, grace_s=0)
        raise
    _children[child.pid] = child
    return child.pid


def pick_gpus(wanted: int, replica: int, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs of a replica; replicas on a machine get different ones.

    Args:
        wanted: GPUs per replica.
        replica: number of the replica, from 0.
        env: our environment; CUDA_VISIBLE_DEVICES limits the choice.

    Raises:
        SubmitError: this machine has too few GPUs.
    """
    if wanted == 0:
        return ()
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        found = [str(number) for number in range(_count_gpus())]
    else:
        found = [device for device in named.split(",") if device]
    chosen = tuple(found[replica * wanted : (replica + 1) * wanted])
    if len(chosen) < wanted:
        raise SubmitError(
            f"replica {replica} needs {wanted} GPU(s) of its own, this machine shows {len(found)}"
        )
    return chosen


def statuses(handles: Sequence[JobHandle]) -> dict[str, JobStatus]:
    """Return the statuses of the machine's jobs by key; UNKNOWN for jobs of another machine.

    Args:
        handles: local jobs.
    """
    return {handle.key: _status(handle) for handle in handles}


def drain(handles: Sequence[JobHandle]) -> None:
    """Send SIGTERM to controllers, which pass the signal to their tasks.

    Raises:
        SchedulerError: a job runs on another machine.
    """
    for handle in handles:
        if _is_here(handle) and _alive(handle):
            by_pid.send(_process(handle), signal.SIGTERM)


def cancel(handles: Sequence[JobHandle], *, grace_s: float = 5.0) -> None:
    """End jobs: SIGTERM, and after the grace SIGKILL for every remaining descendant.

    Args:
        handles: local jobs.
        grace_s: seconds between the two.

    Raises:
        SchedulerError: a job runs on another machine.
    """
    import psutil  # noqa: PLC0415 - most commands do without

    running = [handle for handle in handles if _is_here(handle) and _alive(handle)]
    # Collected before and after: a dying parent's children move to init, and new ones may start.
    family = {member for handle in running for member in _family(int(handle.job_id))}
    drain(running)
    _wait(lambda: not any(_alive(handle) for handle in running), grace_s)
    for handle in filter(_alive, running):  # the id of an ended one may be another's by now
        family.update(_family(int(handle.job_id)))
    left = [member for member in family if _runs(member)]
    for member in left:
        with suppress(psutil.Error):
            member.kill()  # only if the id is not another process's by now
    _wait(lambda: not any(_runs(member) for member in left), KILL_S)


def _wait(holds: Callable[[], bool], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def _status(handle: JobHandle) -> JobStatus:
    host = _host(handle)
    if host not in {None, socket.gethostname()}:
        return JobStatus(
            JobState.UNKNOWN, reason=f"it runs on {host}; ask there", nodes=(str(host),)
        )
    if _alive(handle):
        return JobStatus(JobState.RUNNING, nodes=(socket.gethostname(),))
    outcome, told = _outcome(handle)
    if outcome == "success":
        return JobStatus(JobState.DONE, exit_code=0)
    if outcome == "error":
        return JobStatus(JobState.FAILED, reason=told, exit_code=1)
    if host is None:
        return JobStatus(JobState.GONE, reason="no such local job")
    return JobStatus(JobState.FAILED, reason="its process ended without a result")


def _alive(handle: JobHandle) -> bool:
    pid = int(handle.job_id)
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
    return by_pid.alive(_process(handle))


def _outcome(handle: JobHandle) -> tuple[str | None, str]:
    """Return submitit's "success" or "error", or None, and the error's last line."""
    path = Path(handle.folder) / f"{handle.job_id}_0_result.pkl"
    try:
        word, result = pickle.loads(path.read_bytes())  # noqa: S301 # nosec B301 - our own file
    except FileNotFoundError:
        return None, ""
    except Exception:  # noqa: BLE001 - whatever the task returned, it returned
        return "success", ""
    return str(word), str(result).strip().rpartition("\n")[2]


def _host_file(folder: Path, job_id: str) -> Path:
    """Return the file with the machine of a job, and the identity of its process there."""
    return folder / f"{job_id}_host"


def _host(handle: JobHandle) -> str | None:
    told = files.read_text(_host_file(Path(handle.folder), handle.job_id))
    return None if told is None else told.partition("\n")[0]


def _process(handle: JobHandle) -> str:
    """Return the identity of a job's process, or ""; the id alone may be another's by now."""
    told = files.read_text(_host_file(Path(handle.folder), handle.job_id)) or ""
    return told.partition("\n")[2].strip()


def _is_here(handle: JobHandle) -> bool:
    host = _host(handle)
    if host not in {None, socket.gethostname()}:
        raise SchedulerError(
            f"the local job {handle.job_id} runs on {host}, not on this machine",
            hint=f"log in to {host} to stop it",
        )
    return True


def _family(pid: int) -> set[psutil.Process]:
    """Return a process and all of its descendants; psutil knows each by its start time too."""
    import psutil  # noqa: PLC0415 - most commands do without

    try:
        first = psutil.Process(pid)
        return {first, *first.children(recursive=True)}
    except psutil.Error:
        return set()


def _runs(process: psutil.Process) -> bool:
    """Return whether a process runs still; a zombie does not."""
    import psutil  # noqa: PLC0415 - most commands do without

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _count_gpus() -> int:
    """Return the number of NVIDIA devices, or else of render nodes of AMD's driver."""
    nvidia = [p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()]
    return len(nvidia) or len(list(Path("/dev/dri").glob("renderD*")))
