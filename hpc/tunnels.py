"""The tunnels that run in the background of this machine: list them, find one, end them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpc import pids, state
from hpc.errors import TunnelError
from hpc.tunnel import records

if TYPE_CHECKING:
    from pathlib import Path

MARKER = " connect "
"""What the command line of every tunnel in the background holds."""
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An open tunnel.

    Attributes:
        state: "up", or "down" while it is being opened again.
        way: where it leads, as the login node sees it.
        background: whether ``stop`` may end it; others end with their program.
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
    """Return the open tunnels of this machine."""
    root = state.home()
    return [_describe(root, record) for record in records.living(root)]


def find(login: str) -> Tunnel | None:
    """Return a tunnel in the background to an account, or None."""
    for tunnel in list_all():
        if tunnel.background and tunnel.login == login:
            return tunnel
    return None


def stop(login: str | None = None) -> list[Tunnel]:
    """End the tunnels in the background, or those to one account.

    Args:
        login: as it was given to connect; None ends all.

    Returns:
        Those that were ended.

    Raises:
        TunnelError: one does not end.
    """
    root, ended = state.home(), []
    for record in records.living(root):
        if not record.background or login not in (None, record.login):
            continue
        if not pids.stop_pid(record.pid, marker=MARKER, grace_s=STOP_S):
            raise TunnelError(f"the tunnel to {record.login} (process {record.pid}) does not end")
        records.drop(root, record.port)
        ended.append(_describe(root, record))
    return ended


def log_path(port: int | str) -> Path:
    """Return where a tunnel in the background writes its events."""
    return state.home() / "connections" / f"connect-{port}.log"


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
