"""The surroundings of a job on its node: private folder, GPUs, ids and walltime."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hpc import assets
from hpc.engines import INHERITED, EngineContext, engine_files, hf_cache
from hpc.errors import EngineError
from hpc.processes import by_pid
from hpc.state import files, trust

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpc.model import ServiceSpec

DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
SOCKET = "engine.sock"
BASE = Path("/tmp")  # noqa: S108 - every folder below it is made with mode 0700
PREFIX = "hpc-serve-"
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
OWNER = "owner"
"""File with the identity of the process that owns a private folder."""


def base_folder(spec: ServiceSpec | None, env: Mapping[str, str]) -> Path:
    """Return the parent of a job's private folders on the node.

    The default is /tmp rather than $TMPDIR, since a Unix socket's path may have 107 bytes.

    Args:
        spec: the service, whose ``tmp`` may name variables of the job; None without an engine.
        env: the job's environment.

    Raises:
        EngineError: the folder is not named in full, cannot be made, or is open to others.
    """
    if spec is None or spec.tmp is None:
        return BASE
    filled = VARIABLE.sub(lambda found: env.get(found[1] or found[2]) or found[0], spec.tmp)
    base = Path(filled).expanduser()
    if "$" in filled or not base.is_absolute():
        raise EngineError(f"tmp of {spec.name}: {spec.tmp} is {filled} on the node: no whole path")
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        weak = trust.weak_folder(base)
    except OSError as error:
        raise EngineError(f"tmp of {spec.name}: cannot use {base}: {error.strerror}") from error
    if weak is not None:
        raise EngineError(f"tmp of {spec.name}: {weak.text}", hint=weak.repair)
    return base


@contextmanager
def private_folder(base: Path = BASE) -> Iterator[Path]:
    """Yield a folder on the node, open to the user only and removed with the job.

    Args:
        base: parent folder on the node.

    Raises:
        EngineError: the folder cannot be made.
    """
    sweep(base)
    with ExitStack() as stack:
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            held = stack.enter_context((folder / OWNER).open("wb", buffering=0))
            # Before the identity, as a file without one is left alone.
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.write((by_pid.identity(os.getpid()) or "").encode())
        except OSError as error:
            raise EngineError(
                f"cannot make a folder in {base} on the node: {error.strerror}",
                hint="name another folder of the node by 'tmp', such as tmp: /scratch/$USER",
            ) from error
        yield folder


def sweep(base: Path = BASE) -> None:
    """Remove the folders of our SIGKILLed jobs on this node.

    A job in a container may share /tmp and yet see no process of ours, all of which it would take
    for gone. The lock that each job holds on its owner file is seen from there too.

    Args:
        base: parent folder on the node.
    """
    for folder in base.glob(f"{PREFIX}*"):
        owner = _owner(folder)
        # A folder without an owner is just being made, or foreign: both stay.
        pid = owner.partition(" ")[0]
        gone = pid.isdecimal() and by_pid.identity(int(pid)) != owner
        if gone and not _locked(folder / OWNER):
            shutil.rmtree(folder, ignore_errors=True)


def _locked(path: Path) -> bool:
    """Return whether any process of the machine, in any namespace, holds a file's lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, or the folder has just gone
        return False
    return False


def _owner(folder: Path) -> str:
    """Return the owner named in our own folder, or ""; foreign folders are not opened."""
    try:
        # lstat, and no read before the owner is known: /tmp is shared with hostile neighbours.
        found = folder.lstat()
    except OSError:
        return ""
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        return ""
    return files.read_text(folder / OWNER) or ""


def find_place(
    spec: ServiceSpec, folder: Path, secret: str, env: Mapping[str, str]
) -> EngineContext:
    """Return an engine's surroundings on the node.

    Args:
        spec: the service.
        folder: the job's private folder.
        secret: the engine's key.
        env: the job's environment.
    """
    hf_home, hub = hf_cache.hf_home(spec, env), hf_cache.hub(spec, env)
    cached = hf_cache.cached(spec, hub)
    apart = "" if hub == f"{hf_home}/hub" else hub
    token = hf_cache.token({**env, **spec.env})
    readable, written = engine_files.bound(spec)
    return EngineContext(
        socket=str(folder / SOCKET),
        port=None,
        secret=secret,
        devices=devices(env),
        weights_cached=cached,
        hf_home=hf_home,
        hub=apart,
        snapshot=str(hf_cache.snapshot_of(spec, hub) or "") if cached else "",
        reached=hf_cache.links(spec, hub, apart or hf_home),
        readable=readable,
        written=written,
        run_dir=str(folder),
        gguf_server=str(assets.script("gguf_api_server.py")),
        python=spec.python or sys.executable,
        inherited={
            **{name: env[name] for name in INHERITED if env.get(name)},
            **({"HF_TOKEN": token} if token else {}),
        },
    )


def devices(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the job's GPUs under Slurm's names."""
    named = next((env[name] for name in DEVICE_VARIABLES if env.get(name)), "")
    return tuple(device for device in named.split(",") if device)


def job_id(env: Mapping[str, str]) -> str:
    """Return the id of the job's handle; "" outside a job.

    An element of an array has its own ``SLURM_JOB_ID`` too, a number that no handle uses.
    """
    array, index = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    if array and index:
        return f"{array}_{index}"
    return env.get("SLURM_JOB_ID") or env.get("SUBMITIT_LOCAL_JOB_ID", "")


def restarts(env: Mapping[str, str]) -> int | None:
    """Return the number of the job's requeues before its start; None outside Slurm."""
    if "SLURM_JOB_ID" not in env:
        return None
    told = env.get("SLURM_RESTART_COUNT", "")
    return int(told) if told.isdigit() else 0


def node_name(env: Mapping[str, str]) -> str:
    """Return the machine's short name, as the cluster's other machines resolve it.

    A fully qualified name may resolve to a link-local address on clusters with several networks.
    """
    return env.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]


def walltime_end(spec: ServiceSpec, env: Mapping[str, str]) -> float | None:
    """Return the Unix time of the job's walltime end; None without a limit.

    ``SLURM_JOB_END_TIME`` exists from Slurm 23.02 on; older versions count from now.
    """
    told = env.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    minutes = spec.resources.time_min
    return time.time() + minutes * 60 if minutes else None
