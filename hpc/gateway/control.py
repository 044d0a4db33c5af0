"""The gateway of this machine: start, find, stop and reload."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from hpc.config import find_models, searched
from hpc.errors import ConfigError, GatewayError
from hpc.processes import by_pid, own_python, programs
from hpc.state import directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hpc.model import GatewayRecord, Reload

HOST = "127.0.0.1"
MARKER = "lite run"
"""Text in every gateway's command line: ``gateway_lite run`` or ``gateway-lite run``."""
START_S = 30.0
POLL_S = 0.05
RELOAD_S = 15.0
SHOWN_LINES = 3


def find(root: Path) -> GatewayRecord | None:
    """Return this machine's running and answering gateway, or None."""
    record = directory.load_gateway(root, socket.gethostname())
    if record is None or not by_pid.alive(record.pid, marker=MARKER):
        return None
    return record if answers(record, "/healthz", {}) else None


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
    """Start a gateway on this machine that outlives the command, unless a gateway runs.

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
    """End the gateway of this machine, after its streams.

    Returns:
        Whether a gateway was running.

    Raises:
        GatewayError: the gateway does not end.
    """
    hostname = socket.gethostname()
    record = directory.load_gateway(root, hostname)
    if record is None:
        return False
    running = by_pid.alive(record.pid, marker=MARKER)
    if not by_pid.stop_pid(record.pid, marker=MARKER, grace_s=40.0):
        raise GatewayError(f"the gateway on {hostname} (pid {record.pid}) does not end")
    directory.drop_gateway(root, hostname)
    return running


def reload(root: Path) -> Reload:
    """Make this machine's gateway read models.yaml now, and return the outcome.

    Raises:
        GatewayError: no gateway runs, or the gateway does not answer.
        ConfigError: the file is refused; names the cause.
    """
    record, asked_at = find(root), time.time()
    if record is None or not record.reload.read_at:  # SIGHUP would end an older gateway
        raise GatewayError("no gateway runs on this machine that can reload")
    os.kill(record.pid, signal.SIGHUP)
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
    free = port is None
    argv = program(root, host=host, port=port, models_file=models_file, or_any_port=free, more=more)
    return _launch(root, argv), True


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


def dialled(record: GatewayRecord) -> str:
    """Return the address by which this machine reaches a gateway."""
    if record.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared
        return record.host
    if record.hostname != socket.gethostname():
        return record.hostname
    return HOST if record.host == "0.0.0.0" else "::1"  # noqa: S104


def answers(record: GatewayRecord, path: str, headers: Mapping[str, str]) -> bool:
    """Return whether a gateway answers a path with 200."""
    connection = http.client.HTTPConnection(dialled(record), record.port, timeout=2.0)
    try:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Prevent two commands on this machine from starting two gateways at once.

    The lock is an abstract socket's name, which the kernel frees with the process, however it
    ends; no file stays behind. If another user holds the name, the command goes on without.
    """
    mark = hashlib.sha256(str(root).encode()).hexdigest()[:16]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guard:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                guard.bind(f"\0hpc-serve-gateway-{os.getuid()}-{mark}")
                break
            except OSError:
                time.sleep(POLL_S)
        yield
