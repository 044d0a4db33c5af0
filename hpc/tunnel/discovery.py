"""Discovery of the gateway on the login node, which starts a gateway if none runs."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpc import own_source, peer_proof
from hpc.errors import TunnelError
from hpc.tunnel.errors import Unreachable
from hpc.tunnel.transport import Route
from hpc.version import __version__

if TYPE_CHECKING:
    from hpc.processes.programs import Result
    from hpc.tunnel.login import Login
    from hpc.tunnel.transport import Transport

REMOTE_COMMAND = "hpc-serve"
START_S = 90.0
"""Seconds for a gateway's start, on a login node with a cold file system."""
USUAL = ("$HOME/.local/bin", "$HOME/hpc-serve/bin")
"""Folders of programs that pip and README's lines install."""
NOT_FOUND = 127
NOT_EXECUTABLE = 126
USAGE = 2


@dataclass(frozen=True, slots=True)
class RemoteGateway:
    """A gateway as its login node sees it; key and secret stay out of the repr.

    Attributes:
        host: address of the gateway's TCP port.
        port: the gateway's TCP port.
        key: the owner's API key.
        version: version of hpc-serve on the login node.
        proof_secret: the secret by which this start of the gateway proves itself.
        socket: path of the gateway's Unix socket, or None.
    """

    host: str
    port: int
    key: str = field(repr=False)
    version: str
    proof_secret: str = field(repr=False)
    socket: str | None = None

    def ways(self, remote_command: str, *, relay: bool) -> list[Route]:
        """Return the routes to the gateway, the best first.

        A Unix socket comes before a port, which other users of the login node could take over
        after the gateway's end, to make the tunnel fail; the relay comes last, or alone.

        Args:
            remote_command: shell words that run hpc-serve on the login node.
            relay: whether to try only the relay.
        """
        port = (self.host, self.port)
        places: list[tuple[str, int] | str] = [self.socket, port] if self.socket else [port]
        last = [Route(place, command_line(relay_words(remote_command, place))) for place in places]
        return last if relay else [*map(Route, places), *last]


def ensure_gateway(link: Transport, login: Login, *, remote_command: str) -> RemoteGateway:
    """Return the gateway of a login node, after starting a gateway if none runs.

    Args:
        link: a connection to the login node.
        login: the connection's account, for messages.
        remote_command: shell words that run hpc-serve on the login node.

    Raises:
        TunnelError: the login node has no usable hpc-serve.
        Unreachable: the gateway did not start, or the connection is gone.
    """
    words = f"{remote_command} gateway ensure --json"
    result = link.run(command_line(words), timeout_s=START_S)
    found = parse_reply(result.stdout) if result.returncode == 0 else None
    if found is None:
        # An older hpc-serve lacks the command: its version explains the failure best.
        told = link.run(command_line(f"{remote_command} --version"), timeout_s=START_S)
        raise _explain(login, result, remote_command, _version(told))
    return found


def relay_words(remote_command: str, to: tuple[str, int] | str) -> str:
    """Return the shell words for a relay of a connection over standard input and output."""
    host_port = to if isinstance(to, str) else f"{to[0]}:{to[1]}"
    return f"{remote_command} relay {shlex.quote(host_port)}"


def command_line(words: str) -> str:
    """Return the remote command line, run in a login shell for the user's PATH.

    Programs are often missing from that PATH. So three folders are appended: the folder that
    ``hpc-serve init`` recorded, that of ``pip install --user``, and that of README's environment.
    """
    recorded = f'"${{XDG_CONFIG_HOME:-$HOME/.config}}/hpc-serve/{own_source.BIN_PATH}"'
    # An empty entry of PATH would be the working folder.
    path = f'b=$(cat {recorded} 2>/dev/null); PATH="$PATH${{b:+:$b}}:{":".join(USUAL)}"'
    return f"bash -lc {shlex.quote(f'{path}; {words}')}"


def other_version(gateway: RemoteGateway, login: Login) -> str | None:
    """Return a warning if the login node has another version of hpc-serve, else None."""
    if gateway.version in ("", __version__):
        return None
    return (
        f"hpc-serve is {__version__} here and {gateway.version} on {login.host}; if something "
        f"fails, {_install_there()}"
    )


def _install_there() -> str:
    """Return the advice to install the copy's version, without a name that others may own."""
    return f"install {__version__} there as here, from {own_source.source()}"


def _version(result: Result) -> str:
    match = re.search(r"hpc-serve, version (\S+)$", result.stdout, re.MULTILINE)
    return match[1] if match else ""


def parse_reply(text: str) -> RemoteGateway | None:
    """Return the last gateway in the text, past the output of banners and start-up files.

    A start-up file may print without a line break, so that a reply may stand behind other text.
    """
    for line in reversed(text.splitlines()):
        # Few braces: the login node may be hostile, and each one costs a look at the whole line.
        starts = [match.start() for match in itertools.islice(_BRACE.finditer(line), BRACES_MAX)]
        for start in reversed(starts):
            gateway = _read(line[start:])
            if gateway is not None:
                return gateway
    return None


_BRACE = re.compile(r"\{(?=\s*\")")
BRACES_MAX = 100


def _read(text: str) -> RemoteGateway | None:
    try:
        said: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        found = RemoteGateway(
            # An address: the proof is bound to it, and a name may have several.
            host=peer_proof.plain(str(said["host"])),
            port=int(said["port"]),
            key=str(said["key"]),
            version=str(said.get("version", "")),
            proof_secret=str(said["proof_secret"]),
            socket=str(said["socket"]) if said.get("socket") else None,
        )
    except (ValueError, KeyError, TypeError):
        return None
    # The key becomes a header line: no line break may get in from a hostile login node. An empty
    # secret would be everybody's.
    sound = found.key.isascii() and found.key.isprintable()
    return found if sound and peer_proof.is_secret(found.proof_secret) else None


def _explain(login: Login, result: Result, remote_command: str, version: str = "") -> TunnelError:
    if result.returncode in (NOT_FOUND, NOT_EXECUTABLE):
        return TunnelError(
            f"cannot run {remote_command} on {login.host}: it is not installed there for you, "
            "or not on the PATH of a login shell",
            hint=f"on {login.host}: {_install_there()}; or say where it is with --remote-command",
        )
    unknown = result.returncode == USAGE and "No such" in result.stderr
    if result.returncode == 0 or unknown:
        return TunnelError(
            f"{remote_command} on {login.host} did not say where its gateway listens: it is "
            f"{version or 'of an unknown version'}, and {__version__} here",
            hint=f"on {login.host}: {_install_there()}",
        )
    return Unreachable(
        f"the gateway on {login.host} did not start: {_told(result)}",
        hint=f"on {login.host}: {remote_command} gateway ensure",
    )


def _told(result: Result) -> str:
    """Return the remote program's own error, which begins with the program's name."""
    printable = "".join(c if c.isprintable() else "\n" for c in result.stderr)
    lines = [line.strip() for line in printable.splitlines() if line.strip()]
    marked = [line for line in lines if "hpc-serve: " in line]
    if marked:
        told = marked[-1].partition("hpc-serve: ")[2]
        return told.removeprefix("the gateway did not start: ")
    return lines[-1] if lines else f"exit status {result.returncode}"
