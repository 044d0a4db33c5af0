"""The background tunnels of the machine: list, find and stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc.errors import TunnelError
from hpc.processes import by_pid
from hpc.state import directory
from hpc.tunnel import records

if TYPE_CHECKING:
    from pathlib import Path

STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An open tunnel.

    Attributes:
        login: account and login node.
        base_url: local base URL for OpenAI clients.
        state: "up", or "down" while reconnecting.
        way: end of the route, as the login node sees it.
        pid: process of the tunnel.
        started_at: Unix time.
        key_file: private file with the API key.
        version: version of hpc-serve on the login node.
        background: whether ``stop`` may end the tunnel; other tunnels end with their program.
    """

    login: str
    base_url: str
    state: str
    way: str
    pid: int
    started_at: float
    key_file: str
    version: str
    background: bool


def list_all() -> list[Tunnel]:
    """Return the open tunnels of the machine."""
    root = directory.home()
    return [_describe(root, record) for record in records.living(root)]


def find(login: str) -> Tunnel | None:
    """Return a background tunnel to an account, or None."""
    for tunnel in list_all():
        if tunnel.background and tunnel.login == login:
            return tunnel
    return None


def stop(login: str | None = None) -> list[Tunnel]:
    """End the background tunnels, or those to an account.

    Args:
        login: account and login node, as given to connect; None ends all.

    Returns:
        The ended tunnels.

    Raises:
        TunnelError: a tunnel does not end.
    """
    root, ended = directory.home(), []
    for record in records.living(root):
        if not record.background or login not in (None, record.login):
            continue
        if not by_pid.stop(record.process, grace_s=STOP_S):
            raise TunnelError(f"the tunnel to {record.login} (process {record.pid}) does not end")
        records.drop(root, record.port)
        ended.append(_describe(root, record))
    return ended


def log_path(port: int | str) -> Path:
    """Return the log file of a background tunnel."""
    return directory.home() / "connections" / f"connect-{port}.log"


def _describe(root: Path, record: records.TunnelRecord) -> Tunnel:
    return Tunnel(
        login=record.login,
        base_url=f"http://127.0.0.1:{record.port}/v1",
        state=record.state,
        way=record.way,
        pid=record.pid,
        started_at=record.started_at,
        key_file=str(records.key_path(root, record.port)),
        version=record.version,
        background=record.background,
    )
