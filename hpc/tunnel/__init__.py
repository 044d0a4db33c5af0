"""The tunnel to a login node: one authenticated SSH connection for commands and ports."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpc.errors import CommandError
from hpc.processes.programs import find_program
from hpc.tunnel.errors import Unreachable
from hpc.tunnel.login import TRANSPORTS, Login, TransportName
from hpc.tunnel.transport import CONNECT_S

if TYPE_CHECKING:
    from hpc.tunnel.transport import Transport

__all__ = ["TRANSPORTS", "Login", "TransportName", "Unreachable", "default_transport", "open_link"]

_MODULES: dict[TransportName, str] = {
    "openssh": "hpc.tunnel.openssh",
    "paramiko": "hpc.tunnel.paramiko_transport",
}


def default_transport() -> TransportName:
    """Return "openssh" on a machine with a connection-sharing ssh, else "paramiko"."""
    try:
        find_program("ssh")
    except CommandError:
        return "paramiko"
    return "openssh" if os.name == "posix" else "paramiko"


def open_link(
    login: Login,
    *,
    transport: TransportName,
    interactive: bool,
    borrow: bool = False,
    timeout_s: float = CONNECT_S,
) -> Transport:
    """Connect to a login node, verify its host key, then authenticate.

    Args:
        login: account and host.
        transport: "openssh" runs the ssh program, "paramiko" stays in this process.
        interactive: whether passwords and new host keys may be asked for on the terminal.
        borrow: use a connection that the user's own ssh shares, if up.
        timeout_s: seconds for the login node to answer.

    Raises:
        TunnelError: the host or its key is not the expected one, or the host refused the account.
        Unreachable: the host did not answer; it may later.
    """
    # Lazily: each transport's libraries are slow to import, and paramiko is not everywhere.
    module: Any = import_module(_MODULES[transport])
    link: Transport = module.open_link(
        login, interactive=interactive, borrow=borrow, timeout_s=timeout_s
    )
    return link
