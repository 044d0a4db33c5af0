"""The arguments of ssh: protecting options first, then the user's, then defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpc.tunnel.transport import ALIVE_COUNT, ALIVE_S, CONNECT_S

if TYPE_CHECKING:
    from pathlib import Path

    from hpc.tunnel.login import Login

ORPHAN_S = 5
"""Seconds until an idle master without any connection leaves."""


def master(
    login: Login, control: Path, log: Path, *, interactive: bool, timeout_s: float = CONNECT_S
) -> list[str]:
    """Return the arguments for starting a master.

    ssh takes the first value of an option: protecting options come first, then the user's, then
    defaults.
    """
    # Forwards, agents and local commands of the user's configuration belong to the user's own
    # sessions: here they could take ports or fail the connection.
    ours = {
        "StrictHostKeyChecking": "ask" if interactive else "yes",
        "BatchMode": "no" if interactive else "yes",
        "ControlPersist": str(ORPHAN_S),
        "ClearAllForwardings": "yes",
        "ExitOnForwardFailure": "yes",
        "PermitLocalCommand": "no",
        "LogLevel": "INFO",
    }
    defaults = {
        "ConnectTimeout": str(round(timeout_s)),
        "ServerAliveInterval": str(ALIVE_S),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    argv = ["ssh", "-f", "-N", "-M", "-a", "-x", "-S", str(control), "-E", str(log)]
    ours_first = [word for key, value in ours.items() for word in ("-o", f"{key}={value}")]
    defaults_last = [word for key, value in defaults.items() for word in ("-o", f"{key}={value}")]
    return [*argv, *ours_first, *chosen(login, *defaults_last)]


def chosen(login: Login, *more: str) -> list[str]:
    """Return the arguments for the account and the user's settings of a login."""
    argv = ["-F", str(login.config)] if login.config is not None else []
    if login.identity is not None:
        argv += ["-i", str(login.identity), "-o", "IdentitiesOnly=yes"]
    for key, value in login.options:
        argv += ["-o", f"{key}={value}"]
    return [*argv, *more, "--", str(login)]
