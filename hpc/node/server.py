"""One model server and its sidecar: start, probe, drain, end."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from hpc import apptainer, preflight, process, state
from hpc.engines import causes
from hpc.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.engines import Launch
    from hpc.model import ServiceSpec
    from hpc.process import Process

log = logging.getLogger(__name__)

PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 5.0
SIDECAR_START_S = 60.0
SIGNALS_SETTLE_S = 0.5
LOG_TAIL = 20_000
ENGINE_KEY = "HPC_SERVE_ENGINE_KEY"


@dataclass(frozen=True, slots=True)
class Running:
    """A model server that was started.

    Attributes:
        process: its first process.
        launch: how it was started.
        log: the file with its output.
        socket: the Unix socket it listens on.
        log_start: where its own output begins in the log.
    """

    process: Process[str]
    launch: Launch
    log: Path
    socket: str
    log_start: int


def start_engine(
    spec: ServiceSpec, launch: Launch, *, run_dir: Path, log_path: Path, program: str
) -> Running:
    """Start a model server, in its container where it has one.

    Args:
        spec: the service.
        launch: its command line and needs.
        run_dir: the job's private folder.
        log_path: file that gets its output.
        program: the container program.

    Raises:
        CommandError: the container program or the engine is not installed.
        EngineError: the image or the model is not there.
    """
    preflight.check_files(spec)
    if not spec.model.startswith("/"):
        _make_cache(Path(launch.env["HF_HOME"]))
    for name in launch.folders:
        (run_dir / name).mkdir(mode=0o700, exist_ok=True)
    door = run_dir / "engine.sock"
    door.unlink(missing_ok=True)  # a killed engine's; the next could not bind
    argv, env = launch.argv, {**_inherited(), **launch.env}
    if spec.container == "apptainer":
        argv = apptainer.exec_argv(
            str(spec.image),
            argv,
            run_dir=str(run_dir),
            binds=(*launch.binds, *spec.binds),
            accelerator=spec.accelerator,
            extra=spec.apptainer_args,
            program=program,
        )
        env = apptainer.container_env(launch.env, os.environ)
    log_start = log_path.stat().st_size if log_path.exists() else 0
    started = process.spawn(argv, log=log_path, env=env, cwd=run_dir, leashed=True)
    return Running(started, launch, log_path, str(door), log_start)


def _inherited() -> dict[str, str]:
    """Return our variables for an engine; its modules lie beside it, its working folder is ours."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def _make_cache(folder: Path) -> None:
    """Make the Hugging Face cache, since Apptainer binds no folder that is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"cannot make the Hugging Face cache {folder}: {error.strerror}"
        ) from error


def wait_ready(
    running: Running,
    *,
    spec: ServiceSpec,
    deadline: float,
    late: str,
    tick: Callable[[], None],
) -> None:
    """Wait until a model server answers its probe.

    Args:
        running: the server.
        spec: the service, for the cause of a failure.
        deadline: Unix time at which waiting ends.
        late: the cause to give then.
        tick: called between two probes; may raise to end the wait.

    Raises:
        EngineError: it ended, or was not ready in time; says why.
    """
    transport = httpx.HTTPTransport(uds=running.socket)
    with httpx.Client(transport=transport, base_url="http://engine") as client:
        while not _answers(client, running):
            check_alive(running, spec)
            if time.time() > deadline:
                raise EngineError(late)
            tick()
            time.sleep(PROBE_EVERY_S)


def _answers(client: httpx.Client, running: Running) -> bool:
    if not _listens(running.socket):
        return False
    try:
        answer = client.get(running.launch.probe.path, timeout=PROBE_TIMEOUT_S)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK


def _listens(path: str) -> bool:
    """Try a connection, since httpx leaves a Unix socket that was refused unclosed."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        return probe.connect_ex(path) == 0


def check_alive(running: Running, spec: ServiceSpec) -> None:
    """Return if the server still runs.

    Raises:
        EngineError: it does not; says why, from its exit status and its log.
    """
    code = running.process.poll()
    if code is None:
        return
    # Slurm signals all of a job at once: our own SIGTERM may come a moment after the engine's.
    time.sleep(SIGNALS_SETTLE_S)
    tail = read_tail(running.log, running.log_start)
    cause = causes.explain(spec, code, tail)
    raise EngineError(cause or f"the engine ended with exit status {code}: {last_line(tail)}")


def read_tail(path: Path, start: int = 0) -> str:
    """Return the end of a log, at most ``LOG_TAIL`` bytes and none before ``start``."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - LOG_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def start_sidecar(
    running: Running, *, secret_file: Path, host: str, run_dir: Path, log_path: Path, drain_s: float
) -> tuple[Process[str], int]:
    """Start the only door of a replica and return it with the port it bound.

    Args:
        running: the server behind it.
        secret_file: file with the key that the sidecar asks for.
        host: address to bind.
        run_dir: the job's private folder.
        log_path: file that gets its output.
        drain_s: seconds that it lets streams end.

    Raises:
        EngineError: it did not come up.
    """
    ready = run_dir / "sidecar.json"
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "gateway_lite", "sidecar", "--upstream-unix", running.socket]
    argv += ["--secret-file", str(secret_file), "--engine-key-env", ENGINE_KEY]
    argv += ["--host", host, "--port", "0", "--ready-file", str(ready)]
    argv += ["--drain-timeout", f"{drain_s:g}"]
    env = {**os.environ, ENGINE_KEY: running.launch.env[running.launch.key_env]}
    started = process.spawn(argv, log=log_path, env=env, cwd=run_dir)
    deadline = time.monotonic() + SIDECAR_START_S
    while time.monotonic() < deadline and started.poll() is None:
        if (text := state.read_text(ready)) is not None:
            return started, int(json.loads(text)["port"])
        time.sleep(0.05)
    process.stop(started)
    raise EngineError(f"the sidecar did not start: {last_line(read_tail(log_path))}")
