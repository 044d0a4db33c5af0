"""Ask the login node for its gateway, which it starts where none runs."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpc.errors import TunnelError
from hpc.tunnel.failures import Unreachable

if TYPE_CHECKING:
    from hpc.process import Result
    from hpc.tunnel.link import Link
    from hpc.tunnel.login import Login

REMOTE_COMMAND = "hpc-serve"
START_S = 90.0
"""Seconds that a gateway has to start, on a login node with a cold file system."""
NOT_FOUND = 127
NOT_EXECUTABLE = 126


@dataclass(frozen=True, slots=True)
class RemoteGateway:
    """A gateway as its login node sees it; the key stays out of the repr."""

    host: str
    port: int
    key: str = field(repr=False)
    version: str


def ensure_gateway(link: Link, login: Login, *, remote_command: str) -> RemoteGateway:
    """Return where the gateway listens, starting it first where there is none.

    Args:
        link: a connection to the login node.
        login: whose it is, for messages.
        remote_command: shell words that run hpc-serve there.

    Raises:
        TunnelError: there is no usable hpc-serve.
        Unreachable: its gateway did not start, or the connection is gone.
    """
    result = link.run(command_line(remote_command), timeout_s=START_S)
    found = parse_reply(result.stdout) if result.returncode == 0 else None
    if found is None:
        raise _explain(login, result, remote_command)
    return found


def command_line(remote_command: str) -> str:
    """Return what is sent: a login shell has the user's PATH, and pip --user is often not on it."""
    script = f'PATH="$PATH:$HOME/.local/bin"; {remote_command} gateway ensure --json'
    return f"bash -lc {shlex.quote(script)}"


def parse_reply(text: str) -> RemoteGateway | None:
    """Find the last line that is the answer, among what banners and start-up files print."""
    for line in reversed(text.splitlines()):
        gateway = _read(line.strip())
        if gateway is not None:
            return gateway
    return None


def _read(line: str) -> RemoteGateway | None:
    if not line.startswith("{"):
        return None
    try:
        said: dict[str, Any] = json.loads(line)
        found = RemoteGateway(
            host=str(said["host"]),
            port=int(said["port"]),
            key=str(said["key"]),
            version=str(said.get("version", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None
    return found if found.key.isascii() and found.key.isprintable() else None


def _explain(login: Login, result: Result, remote_command: str) -> TunnelError:
    if result.returncode in (NOT_FOUND, NOT_EXECUTABLE):
        return TunnelError(
            f"cannot run {remote_command} on {login.host}: it is not installed there for you, "
            "or not on the PATH of a login shell",
            hint=f"on {login.host}: python3 -m pip install --user hpc-serve; "
            "or say where it is with --remote-command",
        )
    if result.returncode == 0:
        return TunnelError(
            f"{remote_command} on {login.host} did not say where its gateway listens",
            hint="it may be an older version: upgrade it there",
        )
    return Unreachable(
        f"the gateway on {login.host} did not start: {_told(result)}",
        hint=f"on {login.host}: {remote_command} gateway ensure",
    )


def _told(result: Result) -> str:
    """The remote program's own sentence, which it marks with its name."""
    printable = "".join(c if c.isprintable() else "\n" for c in result.stderr)
    lines = [line.strip() for line in printable.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith("hpc-serve: ")]
    if marked:
        return marked[-1].removeprefix("hpc-serve: ").removeprefix("the gateway did not start: ")
    return lines[-1] if lines else f"exit status {result.returncode}"
