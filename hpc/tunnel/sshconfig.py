"""The user's SSH configuration of a login, for the transport inside this process."""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko

from hpc.errors import ConfigError, TunnelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.tunnel.login import Login

USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
NOT_FOR_JUMPS = ("hostname", "port", "proxyjump", "user")
"""Options of a login that do not apply to its jump hosts."""

_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>[^@:]+)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Settings:
    """The resolved settings of a login.

    Attributes:
        host: host name or address.
        port: SSH port.
        user: account.
        identities: files of private keys.
        known_hosts: files of known host keys.
        jump: the jump host in front, or None.
    """

    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    known_hosts: tuple[Path, ...]
    jump: Login | None = None


def settings(login: Login) -> Settings:
    """Merge a login's options with the SSH configuration, as ssh would.

    Raises:
        ConfigError: the configuration cannot be read.
        TunnelError: the configuration needs a feature that only the ssh program has.
    """
    found = _configured(login)
    if found.get("proxycommand", "none") != "none":
        raise TunnelError(
            f"{login.host} is reached through a ProxyCommand, which the paramiko transport "
            "does not run",
            hint="write it as ProxyJump, or use --transport openssh",
        )
    user_hosts = str(found.get("userknownhostsfile", USER_KNOWN_HOSTS))
    global_hosts = str(found.get("globalknownhostsfile", GLOBAL_KNOWN_HOSTS))
    identities = (str(login.identity),) if login.identity else _identities(found)
    return Settings(
        host=str(found.get("hostname", login.host)),
        port=_port(found),
        user=login.user or str(found.get("user") or getpass.getuser()),
        identities=identities,
        known_hosts=tuple(
            Path(name).expanduser() for name in f"{user_hosts} {global_hosts}".split()
        ),
        jump=_jump(login, str(found.get("proxyjump", "none"))),
    )


def _jump(login: Login, text: str) -> Login | None:
    """Return the last jump host; earlier jump hosts become its own ProxyJump."""
    if text == "none":
        return None
    before, _, last = text.rpartition(",")
    match = _JUMP.fullmatch(last.strip())
    if match is None:
        raise ConfigError(f"not a jump host: {last!r}")
    kept = [pair for pair in login.options if pair[0].lower() not in NOT_FOR_JUMPS]
    if match["port"]:
        kept.append(("Port", match["port"]))
    if before:
        kept.append(("ProxyJump", before))
    return replace(login, host=match["host"], user=match["user"], options=tuple(kept))


def _configured(login: Login) -> Mapping[str, Any]:
    path = login.config or Path("~/.ssh/config").expanduser()
    try:
        config = paramiko.SSHConfig.from_path(str(path)) if path.is_file() else paramiko.SSHConfig()
        found: dict[str, Any] = dict(config.lookup(login.host))
    except (paramiko.SSHException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the SSH configuration {path}: {error}") from error
    # Of a repeated option ssh takes the first: in reverse, the first is the last one written.
    for key, value in reversed(login.options):
        found[key.lower()] = value
    return found


def _identities(found: Mapping[str, Any]) -> tuple[str, ...]:
    named = found.get("identityfile", ())
    paths = [named] if isinstance(named, str) else named
    expanded = (os.path.expanduser(path) for path in paths)  # noqa: PTH111 - "~" alone, else text
    return tuple(path for path in expanded if Path(path).is_file())


def _port(found: Mapping[str, Any]) -> int:
    try:
        return int(found.get("port", 22))
    except ValueError as error:
        raise ConfigError(f"not a port: {found['port']!r}") from error
