"""The gateway of the machine: start, find, stop and reload."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from hpc.config import find_models, searched
from hpc.errors import ConfigError, GatewayError
from hpc.gateway import reach
from hpc.processes import by_pid, own_python, programs
from hpc.state import directory, lock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hpc.model import GatewayRecord, Reload

HOST = "127.0.0.1"
START_S = 30.0
POLL_S = 0.05
RELOAD_S = 15.0
SHOWN_LINES = 3


def find(root: Path) -> GatewayRecord | None:
    """Return the machine's running gateway, which proved itself just now, or None."""
    record = reach.here(root)
    return record if record is not None and reach.proves(record) else None


def find_elsewhere(root: Path) -> GatewayRecord | None:
    """Return the youngest answering gateway on another machine, or None."""
    here = socket.gethostname()
    others = [record for record in find_all(root) if record.hostname != here]
    for record in sorted(others, key=lambda each: each.started_at, reverse=True):
        on_its_own = reach.dialled(record).startswith("127.")
        if not on_its_own and reach.is_living(record) and reach.proves(record):
            return record
    return None


def find_all(root: Path) -> list[GatewayRecord]:
    """Return the records of the gateways of all machines, sorted by machine."""
    folder = directory.gateway_dir(root, "")
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return []
    found = (directory.load_gateway(root, name) for name in names)
    return [record for record in found if record is not None]


def program(
    root: Path,
    *,
    host: str = HOST,
    port: int | None = None,
    models_file: str | None = None,
    or_any_port: bool = False,
    more: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the command that runs a gateway in the foreground.

    Args:
        root: the state directory.
        host: address to listen on.
        port: TCP port; None is the site's.
        models_file: models.yaml with static backends; None searches as the configuration says.
        or_any_port: take a free port if the port is in use.
        more: further arguments of ``gateway-lite run``, such as other listeners.

    Raises:
        ConfigError: the named models file does not exist.
    """
    models = find_models(models_file)
    argv = own_python.argv("gateway_lite", "run", "--home", str(root), "--host", host)
    if port is not None:
        argv += ["--port", str(port)]
    if models is not None:
        argv += ["--found-models" if searched(models_file) else "--models", str(models)]
    if or_any_port:
        argv.append("--or-any-port")
    return (*argv, *more)


def run(
    root: Path, *, host: str, port: int | None, models_file: str | None, more: Sequence[str] = ()
) -> NoReturn:
    """Become a gateway in the foreground.

    The working folder is left first: Python would import from it, and others may write there.

    Raises:
        GatewayError: a gateway runs on this machine already.
        ConfigError: the named models file does not exist.
    """
    record = find(root)
    if record is not None:
        raise GatewayError(
            f"a gateway runs on {record.hostname} already, on port {record.port}",
            hint="hpc-serve gateway stop",
        )
    more = _with_socket(root, more)
    argv = program(root, host=host, port=port, models_file=models_file, more=more)
    os.chdir(root)
    os.execve(argv[0], argv, own_python.environment())  # noqa: S606 - our own program, in our place


def start(
    root: Path,
    *,
    host: str = HOST,
    port: int | None = None,
    models_file: str | None = None,
    more: Sequence[str] = (),
) -> tuple[GatewayRecord, bool]:
    """Start a gateway on the local machine that outlives the command, unless a gateway runs.

    Args:
        root: the state directory.
        host: address to listen on.
        port: TCP port; None is the site's, or a free one if the site's is in use.
        models_file: models.yaml with static backends.
        more: further arguments of ``gateway-lite run``.

    Returns:
        The gateway, and whether it was started now.

    Raises:
        GatewayError: the gateway did not start; names the cause.
    """
    with one_at_a_time(root):
        return start_here(root, host=host, port=port, models_file=models_file, more=more)


def stop(root: Path) -> bool:
    """End the gateway of the machine, after its streams.

    Returns:
        Whether a gateway was running.

    Raises:
        GatewayError: the gateway does not end.
    """
    hostname = socket.gethostname()
    record = directory.load_gateway(root, hostname)
    if record is None:
        return False
    running = by_pid.alive(record.process)
    if not by_pid.stop(record.process, grace_s=40.0):
        raise GatewayError(f"the gateway on {hostname} (pid {record.pid}) does not end")
    directory.drop_gateway(root, hostname)
    return running


def reload(root: Path) -> Reload:
    """Make the machine's gateway read models.yaml now, and return the outcome.

    Raises:
        GatewayError: no gateway runs, or the gateway does not answer.
        ConfigError: the file is refused; names the cause.
    """
    record, asked_at = find(root), time.time()
    if record is None or not record.reload.read_at:  # SIGHUP would end an older gateway
        raise GatewayError("no gateway runs on this machine that can reload")
    by_pid.send(record.process, signal.SIGHUP)
    while record is None or record.reload.read_at < asked_at:
        if time.time() > asked_at + RELOAD_S:
            raise GatewayError(f"the gateway did not read models.yaml within {RELOAD_S:g} s")
        time.sleep(POLL_S)
        record = directory.load_gateway(root, socket.gethostname())
    if record.reload.refused is not None:
        raise ConfigError(record.reload.refused, hint="the gateway keeps its previous models")
    return record.reload


def start_here(
    root: Path, *, host: str, port: int | None, models_file: str | None, more: Sequence[str] = ()
) -> tuple[GatewayRecord, bool]:
    """Start a gateway as ``start`` does, for callers inside ``one_at_a_time``."""
    record = find(root)
    if record is not None:
        return record, False
    free, more = port is None, _with_socket(root, more)
    argv = program(root, host=host, port=port, models_file=models_file, or_any_port=free, more=more)
    return _launch(root, argv), True


def _with_socket(root: Path, more: Sequence[str]) -> Sequence[str]:
    """Return a gateway's arguments with a Unix socket, the first way for programs of the user."""
    return more if "--unix" in more else (*more, *private_socket(root))


def _launch(root: Path, argv: tuple[str, ...]) -> GatewayRecord:
    log = directory.gateway_dir(root, socket.gethostname()) / "gateway.log"
    begin = log.stat().st_size if log.exists() else 0
    child = programs.spawn(argv, log=log, cwd=root, env=own_python.environment())
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise GatewayError(f"the gateway did not start: {_last_words(log, begin)}")
        record = find(root)
        # The record of an earlier gateway may still be there.
        if record is not None and record.pid == child.pid:
            return record
        time.sleep(POLL_S)
    programs.stop(child)
    raise GatewayError(f"the gateway did not answer within {START_S:g} s", hint=f"see {log}")


def _last_words(log: Path, begin: int) -> str:
    """Return the error with which the gateway ended."""
    try:
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"no log in {log}: {error.strerror}"
    said = [line.removeprefix("gateway-lite: ") for line in lines if line.startswith("gateway-l")]
    return said[-1] if said else "; ".join(lines[-SHOWN_LINES:]) or f"it said nothing in {log}"


def private_socket(root: Path) -> tuple[str, ...]:
    """Return the arguments for a Unix socket, if the file system supports sockets.

    None while the workers of a killed gateway still listen there, as they end their streams.
    """
    path = directory.gateway_dir(root, socket.gethostname()) / "gateway.sock"
    # Many shared file systems refuse sockets, or the path is too long: only a trial tells.
    probe = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(probe))
        probe.unlink()
        with socket.socket(socket.AF_UNIX) as sock:
            in_use = sock.connect_ex(str(path)) == 0
    except OSError:
        return ()
    return () if in_use else ("--unix", str(path))


def one_at_a_time(root: Path) -> AbstractContextManager[None]:
    """Prevent two commands on the local machine from starting two gateways at once.

    The lock lies in the state directory, where no other user can hold it; the kernel frees it
    with the process, however the process ends.
    """
    start = directory.gateway_dir(root, socket.gethostname()) / "start"
    return lock.exclusive(start, patience_s=2 * START_S)
