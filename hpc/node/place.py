"""What a job finds out about where it landed."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import assets, pids, state
from hpc.engines import INHERITED, Place, weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpc.model import ServiceSpec

DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
SOCKET = "engine.sock"
BASE = Path("/tmp")  # noqa: S108 - every folder below it is made with mode 0700
PREFIX = "hpc-serve-"
OWNER = "owner"
"""File that names the process which a private folder belongs to."""


@contextmanager
def private_folder(base: Path = BASE) -> Iterator[Path]:
    """Yield a folder on the node that only we can enter; it goes with the job.

    It lies in /tmp rather than in $TMPDIR, since the path of a Unix socket may have 107 bytes.

    Args:
        base: folder of the node to make it in.
    """
    sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    try:
        (folder / OWNER).write_text(pids.identity(os.getpid()) or "", encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path = BASE) -> None:
    """Remove what jobs of ours that were killed with SIGKILL have left on this node.

    Args:
        base: folder of the node that holds them.
    """
    for folder in base.glob(f"{PREFIX}*"):
        owner = _owner(folder)
        pid = owner.partition(" ")[0]
        if pid.isdecimal() and pids.identity(int(pid)) != owner:
            shutil.rmtree(folder, ignore_errors=True)


def _owner(folder: Path) -> str:
    """Return what OWNER says in a folder of ours; nothing in somebody else's is opened."""
    try:
        found = folder.lstat()
    except OSError:
        return ""
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        return ""
    return state.read_text(folder / OWNER) or ""


def find_place(spec: ServiceSpec, folder: Path, secret: str, env: Mapping[str, str]) -> Place:
    """Return what an engine is told about this node.

    Args:
        spec: the service.
        folder: the job's private folder.
        secret: key the engine is to ask for.
        env: the job's environment.
    """
    hf_home = weights.hf_home(spec, env)
    return Place(
        socket=str(folder / SOCKET),
        port=None,
        secret=secret,
        devices=devices(env),
        weights_cached=weights.cached(spec, hf_home),
        hf_home=hf_home,
        run_dir=str(folder),
        gguf_server=str(assets.script("gguf_api_server.py")),
        python=spec.python or sys.executable,
        inherited={name: env[name] for name in INHERITED if env.get(name)},
    )


def devices(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that Slurm gave the job, as it names them."""
    named = next((env[name] for name in DEVICE_VARIABLES if env.get(name)), "")
    return tuple(device for device in named.split(",") if device)


def job_id(env: Mapping[str, str]) -> str:
    """Return the id of the job's handle; "" where this is no job.

    An element of an array has ``SLURM_JOB_ID`` too, another number, by which nobody else knows it.
    """
    array, index = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    if array and index:
        return f"{array}_{index}"
    return env.get("SLURM_JOB_ID") or env.get("SUBMITIT_LOCAL_JOB_ID", "")


def restarts(env: Mapping[str, str]) -> int | None:
    """Return how often Slurm had requeued this job when it began; None outside Slurm."""
    if "SLURM_JOB_ID" not in env:
        return None
    told = env.get("SLURM_RESTART_COUNT", "")
    return int(told) if told.isdigit() else 0


def node_name(env: Mapping[str, str]) -> str:
    """Return this machine's short name, as the cluster's other machines resolve it.

    A fully qualified name may resolve to a link-local address on clusters with several networks.
    """
    return env.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


def walltime_end(spec: ServiceSpec, env: Mapping[str, str]) -> float | None:
    """Return the Unix time at which the job is ended; None without a limit.

    ``SLURM_JOB_END_TIME`` is set from Slurm 23.02 on; before, we count from now.
    """
    told = env.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    minutes = spec.resources.time_min
    return time.time() + minutes * 60 if minutes else None
