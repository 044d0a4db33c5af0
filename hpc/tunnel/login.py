"""The account, the host and the user's SSH settings for a login."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hpc.errors import ConfigError

TransportName = Literal["openssh", "paramiko"]
TRANSPORTS: tuple[TransportName, ...] = get_args(TransportName)

_DESTINATION = re.compile(r"(?:(?P<user>[^\s@-]\S*)@)?(?P<host>[^\s@:/-][^\s@:/]*)")
_WITH_ADDRESS = re.compile(
    r"(?:(?P<user>[^\s@-]\S*)@)?(?P<host>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\w+)?)"
)
_OPTION = re.compile(r"\s*(?P<key>[A-Za-z][A-Za-z0-9]*)\s*[=\s]\s*(?P<value>\S.*?)\s*")


@dataclass(frozen=True, slots=True)
class Login:
    """An account on a login node.

    Attributes:
        host: name of the host, or of its section in the SSH configuration.
        user: account on the host; None leaves the account to the SSH configuration.
        identity: private key to use alone; None tries the user's own keys and agent.
        options: (keyword, value) pairs of ssh_config(5) that override the configuration.
        config: SSH configuration to read instead of ``~/.ssh/config``.
    """

    host: str
    user: str | None = None
    identity: Path | None = None
    options: tuple[tuple[str, str], ...] = ()
    config: Path | None = None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def parse_login(
    destination: str,
    *,
    identity: str | Path | None = None,
    options: tuple[str, ...] = (),
    config: str | Path | None = None,
) -> Login:
    """Parse ``[USER@]HOST`` and the options of a login.

    Args:
        destination: account and host, or the name of a section of the SSH configuration.
        identity: file with a private key.
        options: ``KEYWORD=VALUE`` as ``ssh -o`` takes them.
        config: SSH configuration file.

    Raises:
        ConfigError: the destination, an option or a file is not usable.
    """
    match = _DESTINATION.fullmatch(destination) or _with_address(destination)
    if match is None:
        raise ConfigError(
            f"not a login node: {destination!r}",
            hint="write USER@HOST; another port is --ssh-option Port=2222",
        )
    return Login(
        host=match["host"],
        user=match["user"],
        identity=_existing(identity, "identity"),
        options=tuple(_option(text) for text in options),
        config=_existing(config, "SSH configuration"),
    )


def _with_address(destination: str) -> re.Match[str] | None:
    """Return the parts of a destination with an IPv6 address, which ssh takes without brackets."""
    match = _WITH_ADDRESS.fullmatch(destination)
    if match is not None:
        try:
            ipaddress.IPv6Address(match["host"])
        except ValueError:
            return None
    return match


def _option(text: str) -> tuple[str, str]:
    match = _OPTION.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"not an SSH option: {text!r}", hint="write KEYWORD=VALUE, as in Port=2222"
        )
    return match["key"], match["value"]


def _existing(path: str | Path | None, what: str) -> Path | None:
    if path is None:
        return None
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise ConfigError(f"there is no {what} file {found}")
    return found
