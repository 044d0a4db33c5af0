"""Paramiko's authentication: the host's key first, then the user's key, password or code."""

from __future__ import annotations

import base64
import functools
import getpass
import hashlib
import os
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko

from hpc.errors import ConfigError, TunnelError
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import known_hosts, prompts
from hpc.tunnel.transport import ALIVE_COUNT, ALIVE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.tunnel.login import Login

USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
NOT_FOR_JUMPS = ("hostname", "port", "proxyjump", "user")
"""Options of a login that do not apply to its jump hosts."""
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>[^@:]+)(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class SshSettings:
    """The resolved settings of a login.

    Attributes:
        host: host name or address.
        port: SSH port.
        user: account.
        identities: files of private keys.
        known_hosts: files of known host keys.
        revoked: file of revoked host keys, or None.
        jump: the jump host in front, or None.
    """

    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    known_hosts: tuple[Path, ...]
    revoked: Path | None = None
    jump: Login | None = None


def settings(login: Login) -> SshSettings:
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
    revoked = str(found.get("revokedhostkeys", "none"))
    identities = (str(login.identity),) if login.identity else _identities(found)
    return SshSettings(
        host=str(found.get("hostname", login.host)),
        port=_port(found),
        user=login.user or str(found.get("user") or getpass.getuser()),
        identities=identities,
        known_hosts=tuple(
            _plain_path(name) for name in f"{user_hosts} {global_hosts}".split() if name != "none"
        ),
        revoked=None if revoked == "none" else _plain_path(revoked),
        jump=_jump(login, str(found.get("proxyjump", "none"))),
    )


def _plain_path(name: str) -> Path:
    """Return the path of a file of host keys; one that is not found would say nothing of them."""
    if "%" in name or "${" in name:
        raise ConfigError(
            f"the file of host keys {name} has a name that the paramiko transport does not expand",
            hint="write the whole path, or use --transport openssh",
        )
    return Path(name).expanduser()


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


TYPING_S = 120.0
"""Seconds for typing a password or code; sshd allows the same."""
PASSWORD_TRIES = 3


_REFUSALS = {
    "changed": tunnel_errors.changed_key,
    "revoked": tunnel_errors.revoked_key,
    "authority": tunnel_errors.only_an_authority,
    "unknown": tunnel_errors.unknown_host,
}


class _HostKeyError(Exception):
    """The host's key is not accepted."""

    def __init__(self, verdict: known_hosts.Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class _Judging(paramiko.MissingHostKeyPolicy):
    """Judge each host's key, and ask the user about an unknown host's, as ssh does.

    Args:
        lines: the lines about the host.
        path: file for a key that the user accepts.
        interactive: whether a user can be asked.
    """

    def __init__(
        self, lines: list[known_hosts.KnownKey], path: Path | None, *, interactive: bool
    ) -> None:
        self._lines = lines
        self._path = path
        self._interactive = interactive

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Accept a known key, and record a new one if the user accepts it."""
        del client
        verdict = known_hosts.judge(self._lines, key.get_name(), key.asbytes())
        if verdict == "known":
            return
        if verdict != "unknown":
            raise _HostKeyError(verdict)
        if not self._interactive or not _confirmed(hostname, key):
            raise _HostKeyError(verdict)
        if self._path is not None:
            _remember(self._path, hostname, key)


class _Silent(paramiko.Transport):
    """A transport without questions to the user."""

    def auth_interactive_dumb(
        self, username: str, handler: Any = None, submethods: str = ""
    ) -> list[str]:
        """Refuse, since paramiko would read from standard input."""
        del username, handler, submethods
        raise paramiko.AuthenticationException("a code is asked for")


class _Asker(paramiko.Transport):
    """A transport with questions on the terminal, for a second factor."""

    def auth_interactive_dumb(
        self, username: str, handler: Any = None, submethods: str = ""
    ) -> list[str]:
        """Pass the server's questions to the user when a key alone does not suffice."""
        del handler
        # paramiko's own limit of 30 s would end while the user still types a code.
        self.auth_timeout = TYPING_S
        allowed: list[str] = self.auth_interactive(username, _answer, submethods)
        return allowed


def connect(login: Login, *, interactive: bool, timeout_s: float) -> list[paramiko.SSHClient]:
    """Return the client of a host, followed by the clients of its jump hosts.

    Args:
        login: account and host.
        interactive: whether passwords, codes and new host keys may be asked for.
        timeout_s: seconds for each host to answer.

    Raises:
        TunnelError: a host or its key is not the expected one, or a host refused the account.
    """
    found = settings(login)
    before: list[paramiko.SSHClient] = []
    client = paramiko.SSHClient()
    try:
        if found.jump is None:
            sock: Any = _dial(login, found, timeout_s)
        else:
            before = connect(found.jump, interactive=interactive, timeout_s=timeout_s)
            sock = _dial_through(before[0], login, found, timeout_s)
        _enter(client, sock, login, found, interactive=interactive, timeout_s=timeout_s)
    except BaseException:
        for each in (client, *before):
            each.close()
        raise
    return [client, *before]


def _enter(
    client: paramiko.SSHClient,
    sock: Any,
    login: Login,
    found: SshSettings,
    *,
    interactive: bool,
    timeout_s: float,
) -> None:
    try:
        try:
            _with_keys(client, sock, login, found, interactive=interactive, timeout_s=timeout_s)
        except (paramiko.AuthenticationException, paramiko.SSHException) as error:
            _with_words(client, found.user, error, interactive=interactive)
    except _HostKeyError as error:
        raise _REFUSALS[error.verdict](login) from error
    except paramiko.PasswordRequiredException as error:
        raise TunnelError(
            f"the private key for {login} has a passphrase",
            hint="add it to your agent with ssh-add, or use --transport openssh",
        ) from error
    except paramiko.AuthenticationException as error:
        raise tunnel_errors.denied(login) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise tunnel_errors.unreachable(login, reason(error)) from error
    # Against firewalls that drop idle connections, and for the kernel's timeout (see _dial).
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(ALIVE_S)


def _with_keys(
    client: paramiko.SSHClient,
    sock: Any,
    login: Login,
    found: SshSettings,
    *,
    interactive: bool,
    timeout_s: float,
) -> None:
    lines = known_hosts.lines_about(found.known_hosts, found.host, found.port)
    if found.revoked is not None:
        lines += known_hosts.revoked_keys(found.revoked)
    path = found.known_hosts[0] if found.known_hosts else None
    # The client knows no host by itself, so the policy judges every key.
    client.set_missing_host_key_policy(_Judging(lines, path, interactive=interactive))
    kinds = {line.kind for line in lines if not line.marker}
    client.connect(
        found.host,
        found.port,
        found.user,
        key_filename=list(found.identities),  # type: ignore[arg-type]  # stubs forget lists
        allow_agent=login.identity is None,
        look_for_keys=login.identity is None,
        sock=sock,
        timeout=timeout_s,
        banner_timeout=timeout_s,
        auth_timeout=TYPING_S if interactive else timeout_s,
        transport_factory=functools.partial(_prefer, kinds, _Asker if interactive else _Silent),
    )


def _prefer(
    kinds: set[str], factory: type[paramiko.Transport], sock: Any, **options: Any
) -> paramiko.Transport:
    """Return a transport that asks the host for a key of a known type first, as ssh does."""
    transport = factory(sock, **options)
    security = transport.get_security_options()
    # An RSA key has one type, and the signatures by it have two.
    first = {"rsa-sha2-512", "rsa-sha2-256", *kinds} if "ssh-rsa" in kinds else kinds
    security.key_types = tuple(sorted(security.key_types, key=lambda kind: kind not in first))
    return transport


def _with_words(
    client: paramiko.SSHClient, user: str, error: Exception, *, interactive: bool
) -> None:
    """Ask for a password or code if the server accepted no key and allows questions."""
    no_keys = "No authentication methods available" in str(error)
    locked = isinstance(error, paramiko.PasswordRequiredException)
    if locked or not (isinstance(error, paramiko.AuthenticationException) or no_keys):
        raise error
    transport = client.get_transport()
    if not interactive or transport is None or not transport.is_active():
        raise paramiko.AuthenticationException(str(error)) from error
    transport.auth_timeout = TYPING_S
    allowed = _allowed(transport, user)
    for _ in range(PASSWORD_TRIES if allowed else 0):
        try:
            _ask_once(transport, user, allowed)
        except paramiko.BadAuthenticationType:
            raise
        except paramiko.AuthenticationException as again:
            error = again
        else:
            return
    raise error


def _ask_once(transport: paramiko.Transport, user: str, allowed: list[str]) -> None:
    if "keyboard-interactive" in allowed:
        transport.auth_interactive(user, _answer)
    elif "password" in allowed:
        word = prompts.ask(f"{user}'s password: ", echo=False)
        transport.auth_password(user, word, fallback=False)
    else:
        raise paramiko.BadAuthenticationType("no method that a user could answer", allowed)


def _allowed(transport: paramiko.Transport, user: str) -> list[str]:
    # The protocol lists the allowed methods only in its refusal of an attempt, here of "none".
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    return []


def _answer(title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
    """Put the server's questions to the user."""
    prompts.say(title)
    prompts.say(instructions)
    return [prompts.ask(text, echo=echo) for text, echo in questions]


def _confirmed(hostname: str, key: paramiko.PKey) -> bool:
    digest = hashlib.sha256(key.asbytes()).digest()
    shown = base64.b64encode(digest).decode().rstrip("=")
    kind = key.get_name().removeprefix("ssh-").upper()
    prompts.say(
        f"The authenticity of host '{hostname}' can't be established.\n"
        f"{kind} key fingerprint is SHA256:{shown}."
    )
    return prompts.ask("Continue connecting (yes/no)? ", echo=True).strip().lower() == "yes"


def _remember(path: Path, hostname: str, key: paramiko.PKey) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")
    except OSError as error:
        raise ConfigError(f"cannot write the known hosts in {path}: {error.strerror}") from error


def _dial(login: Login, found: SshSettings, timeout_s: float) -> socket.socket:
    try:
        connection = socket.create_connection((found.host, found.port), timeout_s)
    except socket.gaierror as error:
        raise tunnel_errors.not_found(login) from error
    except OSError as error:
        raise tunnel_errors.unreachable(login, reason(error)) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # paramiko's keep-alives do not check for answers, so the kernel must notice a dead peer.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        dead_ms = ALIVE_S * ALIVE_COUNT * 1000
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_ms)
    return connection


def _dial_through(
    jump: paramiko.SSHClient, login: Login, found: SshSettings, timeout_s: float
) -> paramiko.Channel:
    transport = jump.get_transport()
    try:
        if transport is None:
            raise EOFError
        return transport.open_channel(
            "direct-tcpip", (found.host, found.port), ("127.0.0.1", 0), timeout=timeout_s
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise tunnel_errors.unreachable(login, reason(error)) from error


def reason(error: Exception) -> str:
    """Return the reason of a failed connection in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "the connection was closed"
