"""Settings of a login for the paramiko transport, and keywords without effect there."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import ConfigError
from hpc.tunnel import ssh_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.tunnel.login import Login
    from hpc.tunnel.ssh_config import Options

KNOWN_HOSTS = {
    "userknownhostsfile": ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"],
    "globalknownhostsfile": ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"],
}
IDENTITIES = [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")]
FAMILIES = {"any": 0, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
NOT_FOR_JUMPS = ("hostkeyalias", "hostname", "port", "proxycommand", "proxyjump", "user")
"""Options of a login that do not apply to its jump hosts."""
METHODS = (
    *("gssapiauthentication", "hostbasedauthentication", "pkcs11provider"),
    "securitykeyprovider",
)
"""Ways to log in that need the ssh program: told where an account is refused."""
OTHERS = (
    *("bindinterface", "ciphers", "hostkeyalgorithms", "kexalgorithms", "knownhostscommand"),
    *("macs", "preferredauthentications", "proxyusefdpass", "pubkeyacceptedalgorithms"),
    *(
        "pubkeyacceptedkeytypes",
        "requiredrsasize",
        "verifyhostkeydns",
        "canonicalizepermittedcnames",
    ),
)
"""Further keywords that change whom ssh reaches or believes: told at the start of a tunnel."""
_OFF = ("no", "false", "none", "default", "")
_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>\S+)@)?"
    r"(?:\[(?P<address>[^\[\]\s]+)\]|(?P<host>[^\s@:\[\]/-][^\s@:\[\]/]*))(?::(?P<port>\w*))?/?"
)


@dataclass(frozen=True, slots=True)
class SshSettings:
    """The resolved settings of a login.

    Attributes:
        host: host name or address.
        port: SSH port.
        user: account.
        known_as: name and port in the files of host keys.
        identities: files of keys.
        certificates: files of certificates of those keys.
        identities_only: whether the agent may offer only the keys of ``identities``.
        agent: path of the agent's socket; "" for none, None for the usual one.
        methods: the methods that may be tried, as the protocol names them.
        user_hosts: files of known host keys of the user; a new key goes into the first.
        global_hosts: files of known host keys of the machine.
        hashed: whether names of hosts are written as hashes.
        revoked: files of revoked host keys.
        family: the only kind of address, or 0.
        source: the own address to connect from, or None.
        proxy: command line whose input and output lead to the host, or None.
        jump: the jump host in front, or None.
        ignored: keywords that change whom ssh reaches or believes, without effect here.
        untried: keywords for ways to log in, without effect here.
    """

    host: str
    port: int
    user: str
    known_as: tuple[str, int]
    identities: tuple[Path, ...]
    certificates: tuple[Path, ...]
    identities_only: bool
    agent: str | None
    methods: frozenset[str]
    user_hosts: tuple[Path, ...]
    global_hosts: tuple[Path, ...]
    hashed: bool
    revoked: tuple[Path, ...]
    family: int
    source: str | None
    proxy: str | None
    jump: Login | None
    ignored: tuple[str, ...]
    untried: tuple[str, ...]


def settings(login: Login) -> SshSettings:
    """Merge a login's options with the SSH configuration, as ssh would.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    found = ssh_config.read(login)
    values = ssh_config.tokens(found, login)
    host, port = values["h"], _port(values["p"])
    values = values | {"p": str(port)}
    alias = _one(found, "hostkeyalias")
    proxy = _one(found, "proxycommand") or "none"
    return SshSettings(
        host=host,
        port=port,
        user=values["r"],
        known_as=(alias, 22) if alias else (host, port),
        identities=_identities(found, values, login),
        certificates=_paths(found.get("certificatefile", []), values),
        identities_only=login.identity is not None or _on(found, "identitiesonly"),
        agent=_agent(found, values),
        methods=_methods(found),
        user_hosts=_hosts(found, "userknownhostsfile", values),
        global_hosts=_hosts(found, "globalknownhostsfile", values),
        hashed=_on(found, "hashknownhosts"),
        revoked=_hosts(found, "revokedhostkeys", values),
        family=_family(found),
        source=_one(found, "bindaddress"),
        proxy=None if proxy.lower() == "none" else ssh_config.expand(proxy, values),
        jump=_jump(login, ssh_config.expand(_one(found, "proxyjump") or "none", values)),
        ignored=_set(found, OTHERS),
        untried=_set(found, METHODS),
    )


def _one(found: Options, key: str) -> str | None:
    return found[key][0] if found.get(key) else None


def _on(found: Options, key: str, default: str = "no") -> bool:
    return (_one(found, key) or default).lower() in ("yes", "true")


def _set(found: Options, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key for key in keys if (_one(found, key) or "").lower() not in _OFF)


def _paths(texts: list[str], values: Mapping[str, str]) -> tuple[Path, ...]:
    if texts[:1] and texts[0].lower() == "none":
        return ()
    return tuple(Path(ssh_config.expand(text, values)).expanduser() for text in texts)


def _hosts(found: Options, key: str, values: Mapping[str, str]) -> tuple[Path, ...]:
    return _paths(found.get(key, KNOWN_HOSTS.get(key, [])), values)


def _identities(found: Options, values: Mapping[str, str], login: Login) -> tuple[Path, ...]:
    if login.identity is not None:
        return (login.identity,)
    return _paths(found.get("identityfile", IDENTITIES), values)


def _agent(found: Options, values: Mapping[str, str]) -> str | None:
    named = _one(found, "identityagent")
    if named is None or named == "SSH_AUTH_SOCK":
        return None
    if named.lower() == "none":
        return ""
    if named.startswith("$") and not named.startswith("${"):
        return os.environ.get(named[1:], "")
    return str(Path(ssh_config.expand(named, values)).expanduser())


def _methods(found: Options) -> frozenset[str]:
    keys = {
        "publickey": "pubkeyauthentication",
        "password": "passwordauthentication",
        "keyboard-interactive": "kbdinteractiveauthentication",
    }
    return frozenset(
        name for name, key in keys.items() if (_one(found, key) or "yes").lower() not in _OFF
    )


def _family(found: Options) -> int:
    named = (_one(found, "addressfamily") or "any").lower()
    if named not in FAMILIES:
        raise ConfigError(f"not an AddressFamily: {named!r}; allowed are {', '.join(FAMILIES)}")
    return FAMILIES[named]


def _port(text: str) -> int:
    try:
        number = int(text) if text.isdigit() else socket.getservbyname(text, "tcp")
    except OSError:
        number = 0
    if not 0 < number < 65536:
        raise ConfigError(f"not a port: {text!r}; write a number from 1 to 65535")
    return number


def _jump(login: Login, text: str) -> Login | None:
    """Return the last jump host, with earlier jump hosts as ProxyJump."""
    if text.lower() == "none":
        return None
    before, _, last = text.rpartition(",")
    match = _JUMP.fullmatch(last.strip())
    if match is None:
        raise ConfigError(
            f"not a jump host: {last.strip()!r} in ProxyJump",
            hint="write [USER@]HOST[:PORT], an IPv6 address in brackets, and commas between hosts",
        )
    kept = [pair for pair in login.options if pair[0].lower() not in NOT_FOR_JUMPS]
    if match["port"]:
        kept.append(("Port", str(_port(match["port"]))))
    if before:
        kept.append(("ProxyJump", before))
    host = match["address"] or match["host"]
    return replace(login, host=host, user=match["user"], options=tuple(kept))
