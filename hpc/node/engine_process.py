"""A model server and its sidecar: start, probe, drain, end."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from hpc import apptainer
from hpc.engines import GPU_MASKS, failure_causes, preflight
from hpc.errors import CommandTimeout, EngineError
from hpc.processes import own_python, programs
from hpc.state import files, private

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.engines import Launch
    from hpc.model import ServiceSpec
    from hpc.node.certificate import Certificate
    from hpc.processes.programs import Process

log = logging.getLogger(__name__)

PROBE_EVERY_S = 0.25
PROBE_TIMEOUT_S = 5.0
SIDECAR_START_S = 60.0
SIGNALS_SETTLE_S = 0.5
ENDING_S = 5.0
"""Seconds for the end of a server that failed at a request."""
LOG_TAIL = 20_000
ENGINE_KEY = "HPC_SERVE_ENGINE_KEY"


@dataclass(frozen=True, slots=True)
class Running:
    """A started model server.

    Attributes:
        process: the server's first process.
        launch: the command it was started with.
        log: the file with the server's output.
        socket: the server's Unix socket.
        log_start: byte offset of this start's output in the log.
    """

    process: Process[str]
    launch: Launch
    log: Path
    socket: str
    log_start: int


def start_engine(
    spec: ServiceSpec, launch: Launch, *, run_dir: Path, log_path: Path, program: str
) -> Running:
    """Start a model server, in a container if the service has one.

    Args:
        spec: the service.
        launch: the server's command and needs.
        run_dir: the job's private folder.
        log_path: file for the server's output.
        program: Apptainer's program.

    Raises:
        CommandError: the container program or the engine is not installed.
        EngineError: the image or the model is missing.
    """
    preflight.check_files(spec, on_node=True)
    if not spec.model.startswith("/"):
        _make_cache(Path(launch.env.get("HF_HUB_CACHE") or launch.env["HF_HOME"]))
    for name in launch.folders:
        (run_dir / name).mkdir(mode=0o700, exist_ok=True)
    door = run_dir / "engine.sock"
    door.unlink(missing_ok=True)  # of a killed engine: the next engine could not bind
    argv, env = launch.argv, {**_inherited(launch), **launch.env}
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
        env = apptainer.container_env(launch.env, os.environ, _prefixes(program))
        for name in apptainer.dropped(os.environ):
            log.info("%s has no effect; write its option under apptainer_args", name)
    # The log is appended to: an old start's error must not explain this start's failure.
    log_start = log_path.stat().st_size if log_path.exists() else 0
    umask = private.user_umask()  # an engine may download weights that a group shares
    started = programs.spawn(argv, log=log_path, env=env, cwd=run_dir, leashed=True, umask=umask)
    return Running(started, launch, log_path, str(door), log_start)


def _prefixes(program: str) -> tuple[str, ...]:
    """Return the prefixes of variables that the node's container program reads."""
    try:
        told = programs.run([program, "--version"], check=False).stdout
    except CommandTimeout:  # a slow file system: the start itself may take longer
        told = ""
    return apptainer.prefixes(told)


def _inherited(launch: Launch) -> dict[str, str]:
    """Return the job's variables for an engine, without PYTHONSAFEPATH and replaced GPU masks.

    A job runs with PYTHONSAFEPATH, against modules in a foreign working folder. An engine's
    modules lie beside its script, and its working folder is private. A mask of the launch replaces
    the job's: with ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES together, ROCm would index twice.
    """
    masked = any(name in launch.env for name in GPU_MASKS)
    found = own_python.for_others(os.environ)
    return {name: value for name, value in found.items() if not (masked and name in GPU_MASKS)}


def _make_cache(folder: Path) -> None:
    """Make the Hugging Face cache, since Apptainer refuses to bind a missing folder."""
    try:
        with private.users_umask():  # a group may share its cache
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
    """Wait for a model server's answer to its probe.

    Args:
        running: the server.
        spec: the service, for the cause of a failure.
        deadline: Unix time at which the wait ends.
        late: the error's text after the deadline.
        tick: called between two probes; may raise to end the wait.

    Raises:
        EngineError: the server ended, or was not ready in time; names the cause.
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
    """Return whether a socket accepts connections; httpx would leak a refused socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        return probe.connect_ex(path) == 0


def check_alive(running: Running, spec: ServiceSpec) -> None:
    """Do nothing if the server still runs.

    Raises:
        EngineError: the server has ended; names the cause from exit status and log.
    """
    code = running.process.poll()
    if code is None:
        return
    # Slurm signals the whole job at once: our own SIGTERM may arrive a moment after the engine's.
    time.sleep(SIGNALS_SETTLE_S)
    tail = read_tail(running.log, running.log_start)
    cause = failure_causes.explain(spec, code, tail)
    raise EngineError(cause or f"the engine ended with exit status {code}: {last_line(tail)}")


def cause_of(running: Running, spec: ServiceSpec, error: EngineError) -> EngineError:
    """Return the cause of a fault: the server's own, if it ends within a few seconds.

    A server of several processes answers with errors first, and ends after that.
    """
    for _ in range(round(ENDING_S / PROBE_EVERY_S)):
        try:
            check_alive(running, spec)
        except EngineError as found:
            return found
        time.sleep(PROBE_EVERY_S)
    return error


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
    """Return the last non-empty line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def start_sidecar(
    running: Running,
    *,
    spec: ServiceSpec,
    secret_file: Path,
    certificate: Certificate | None,
    host: str,
    run_dir: Path,
    log_path: Path,
    drain_s: float,
) -> tuple[Process[str], int]:
    """Start the sidecar, a replica's only outside access; return process and port.

    Args:
        running: the server behind the sidecar.
        spec: the service, with the ports to choose from and the hosts of media.
        secret_file: file with the secret that both sides of a connection prove.
        certificate: the certificate, or None without TLS.
        host: address to bind.
        run_dir: the job's private folder.
        log_path: file for the sidecar's output.
        drain_s: seconds for streams to end.

    Raises:
        EngineError: the sidecar did not start.
    """
    ready = run_dir / "sidecar.json"
    ready.unlink(missing_ok=True)
    argv = own_python.argv("gateway_lite", "sidecar", "--upstream-unix", running.socket)
    argv += ["--secret-file", str(secret_file), "--engine-key-env", ENGINE_KEY]
    argv += ["--host", host, "--ready-file", str(ready)]
    argv += ["--port", "{}-{}".format(*(spec.replica_ports or (0, 0)))]
    argv += ["--drain-timeout", f"{drain_s:g}"]
    if certificate is not None:
        argv += ["--tls-cert", str(certificate.cert), "--tls-key", str(certificate.key)]
    argv += [word for domain in spec.media_domains for word in ("--media-domain", domain)]
    # The key travels in the environment: the argument list is readable by every user of the node.
    key = running.launch.env[running.launch.key_env]
    env = own_python.environment({**os.environ, ENGINE_KEY: key})
    started = programs.spawn(argv, log=log_path, env=env, cwd=run_dir)
    deadline = time.monotonic() + SIDECAR_START_S
    while time.monotonic() < deadline and started.poll() is None:
        if (text := files.read_text(ready)) is not None:
            return started, int(json.loads(text)["port"])
        time.sleep(0.05)
    programs.stop(started)
    raise EngineError(f"the sidecar did not start: {last_line(read_tail(log_path))}")
