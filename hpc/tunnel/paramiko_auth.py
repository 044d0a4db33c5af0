"""Paramiko's authentication: the host's key first, then the user's key, password or code."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import paramiko

from hpc.errors import CommandError, ConfigError
from hpc.processes import programs
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import known_hosts, prompts, ssh_config, stream_copy
from hpc.tunnel.paramiko_keys import KeyOffer
from hpc.tunnel.ssh_settings import SshSettings, settings
from hpc.tunnel.transport import ALIVE_COUNT, ALIVE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpc.tunnel.login import Login

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
        found: the settings of the login.
        interactive: whether a user can be asked.
    """

    def __init__(
        self, lines: list[known_hosts.KnownKey], found: SshSettings, *, interactive: bool
    ) -> None:
        self._lines = lines
        self._found = found
        self._interactive = interactive

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Accept a known key, and record a new key after the user has accepted the key."""
        del client, hostname
        name = known_hosts.host_name(*self._found.known_as)
        verdict = known_hosts.judge(self._lines, key.get_name(), key.asbytes())
        if verdict == "known":
            return
        # An authority's host may show a plain key too: ssh asks about that one.
        if verdict not in ("unknown", "authority") or not self._interactive:
            raise _HostKeyError(verdict)
        if verdict == "authority":
            prompts.say(f"The certificate authority that vouches for '{name}' is not asked here.")
        if not _confirmed(name, key):
            raise _HostKeyError(verdict)
        if self._found.user_hosts:
            _remember(self._found.user_hosts[0], name, key, hashed=self._found.hashed)


class _Entry(paramiko.auth_strategy.AuthStrategy):
    """The user's keys, then passwords and codes, in the place of paramiko's own order.

    Args:
        found: the settings of the login.
        interactive: whether passwords and codes may be asked for.
    """

    def __init__(self, found: SshSettings, *, interactive: bool) -> None:
        super().__init__(paramiko.SSHConfig())
        self.offer = KeyOffer(found, interactive=interactive)
        self._found = found
        self._interactive = interactive

    def get_sources(self) -> Iterator[Any]:
        """Yield nothing: ``authenticate`` decides by the server's answers."""
        return iter(())

    def authenticate(self, transport: paramiko.Transport) -> Any:
        """Log in.

        Raises:
            SSHException: the server accepted nothing, or ended the connection.
        """
        allowed = _allowed(transport, self._found.user)
        if allowed and "publickey" in allowed:
            allowed = self._by_keys(transport, allowed)
        if allowed:
            self._by_words(transport, allowed)

    def _by_keys(self, transport: paramiko.Transport, allowed: list[str]) -> list[str]:
        """Return the methods for the server beside or instead of a key."""
        if "publickey" not in self._found.methods:
            return allowed
        with contextlib.closing(self.offer.keys()) as keys:
            for key in keys:
                try:
                    return list(transport.auth_publickey(self._found.user, key))
                except paramiko.BadAuthenticationType as error:
                    return list(error.allowed_types)
                except paramiko.SSHException:  # refused, or an agent that does not sign
                    if not transport.is_active():
                        raise
        return allowed

    def _by_words(self, transport: paramiko.Transport, allowed: list[str]) -> None:
        usable = [name for name in allowed if name in self._found.methods]
        error = paramiko.AuthenticationException("no key was accepted")
        # paramiko's own limit of 30 s would end while the user still types a code.
        transport.auth_timeout = TYPING_S
        for _ in range(PASSWORD_TRIES if self._interactive else 0):
            try:
                left = _ask_once(transport, self._found.user, usable)
            except paramiko.BadAuthenticationType:
                raise
            except paramiko.AuthenticationException as again:
                error = again
                continue
            if left:  # a password first, then a code, or the other way round
                self._by_words(transport, left)
            return
        raise error


def connect(
    login: Login,
    *,
    interactive: bool,
    timeout_s: float,
    notes: list[str] | None = None,
    passed: tuple[Login, ...] = (),
) -> list[paramiko.SSHClient]:
    """Return the client of a host, followed by the clients of jump hosts.

    Args:
        login: account and host.
        interactive: whether passwords, codes and new host keys may be asked for.
        timeout_s: seconds for each host to answer.
        notes: gets a sentence for each host whose configuration is not followed wholly.
        passed: the logins that are reached through this one.

    Raises:
        TunnelError: a host or its key is not the expected one, or a host refused the account.
    """
    found = settings(login)
    if found.ignored and notes is not None:
        notes.append(tunnel_errors.not_followed(login, found.ignored))
    if login in passed:
        raise ConfigError(
            f"the jump host {login.host} is to be reached through itself",
            hint="give it a section of its own with ProxyJump none in the SSH configuration",
        )
    before: list[paramiko.SSHClient] = []
    client = paramiko.SSHClient()
    try:
        if found.jump is not None:
            before = connect(
                found.jump,
                interactive=interactive,
                timeout_s=timeout_s,
                notes=notes,
                passed=(*passed, login),
            )
            sock: Any = _dial_through(before[0], login, found, timeout_s)
        elif found.proxy is not None:
            sock = _dial_proxy(login, found.proxy)
        else:
            sock = _dial(login, found, timeout_s)
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
    entry = _Entry(found, interactive=interactive)
    try:
        _handshake(client, sock, found, entry, interactive=interactive, timeout_s=timeout_s)
    except _HostKeyError as error:
        raise _REFUSALS[error.verdict](login) from error
    except paramiko.AuthenticationException as error:
        raise tunnel_errors.denied(login, entry.offer.problems, found.untried) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        by = " by its ProxyCommand" if found.proxy is not None else ""
        raise tunnel_errors.unreachable(login, f"{reason(error)}{by}") from error
    # Against firewalls that drop idle connections, and for the kernel's timeout (see _dial).
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(ALIVE_S)


def _handshake(
    client: paramiko.SSHClient,
    sock: Any,
    found: SshSettings,
    entry: _Entry,
    *,
    interactive: bool,
    timeout_s: float,
) -> None:
    files = (*found.user_hosts, *found.global_hosts)
    lines = known_hosts.lines_about(files, *found.known_as)
    for path in found.revoked:
        lines += known_hosts.revoked_keys(path)
    # The client knows no host by itself, so the policy judges every key.
    client.set_missing_host_key_policy(_Judging(lines, found, interactive=interactive))
    kinds = {line.kind for line in lines if not line.marker}
    client.connect(
        found.host,
        found.port,
        found.user,
        auth_strategy=entry,
        sock=sock,
        timeout=timeout_s,
        banner_timeout=timeout_s,
        auth_timeout=TYPING_S if interactive else timeout_s,
        transport_factory=functools.partial(_prefer, kinds),
    )


def _prefer(kinds: set[str], sock: Any, **options: Any) -> paramiko.Transport:
    """Return a transport with a preference for host keys of known types, as ssh has."""
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    # An RSA key has one type, and the signatures by it have two.
    first = {"rsa-sha2-512", "rsa-sha2-256", *kinds} if "ssh-rsa" in kinds else kinds
    security.key_types = tuple(sorted(security.key_types, key=lambda kind: kind not in first))
    return transport


def _ask_once(transport: paramiko.Transport, user: str, allowed: list[str]) -> list[str]:
    if "keyboard-interactive" in allowed:
        return list(transport.auth_interactive(user, _answer))
    if "password" in allowed:
        word = prompts.ask(f"{user}'s password: ", echo=False)
        return list(transport.auth_password(user, word, fallback=False))
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


def _remember(path: Path, name: str, key: paramiko.PKey, *, hashed: bool) -> None:
    written = paramiko.HostKeys.hash_host(name) if hashed else name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab+") as file:
            # A last line without its end would become part of ours.
            file.seek(max(file.tell() - 1, 0))
            start = "" if file.read(1) in (b"", b"\n") else "\n"
            file.write(f"{start}{written} {key.get_name()} {key.get_base64()}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write the known hosts in {path}: {error.strerror}") from error


def _dial(login: Login, found: SshSettings, timeout_s: float) -> socket.socket:
    try:
        places = socket.getaddrinfo(found.host, found.port, found.family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise tunnel_errors.not_found(login) from error
    connection = _first_answer(login, [place[4] for place in places], found.source, timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # paramiko's keep-alives do not check for answers, so the kernel must notice a dead peer.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        dead_ms = ALIVE_S * ALIVE_COUNT * 1000
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_ms)
    return connection


def _first_answer(
    login: Login, addresses: list[Any], source: str | None, timeout_s: float
) -> socket.socket:
    failure = OSError("no address")
    for host, port, *_ in addresses:
        try:
            return socket.create_connection(
                (host, port), timeout_s, source_address=(source, 0) if source else None
            )
        except OSError as error:
            failure = error
    raise tunnel_errors.unreachable(login, reason(failure)) from failure


class _Proxy(stream_copy.Pipes):
    """A program on the way to a host; SSH has no half-closed connections, so any end is the end."""

    def shutdown(self, how: int) -> None:
        """End the program."""
        del how
        super().shutdown(socket.SHUT_RDWR)


def _dial_proxy(login: Login, command: str) -> socket.socket:
    """Return a connection through a ProxyCommand, which the user's shell runs."""
    try:
        program = _Proxy(programs.converse(ssh_config.shell(command, alone=True)))
    except CommandError as error:
        raise tunnel_errors.unreachable(login, str(error)) from error
    ours, theirs = socket.socketpair()
    threading.Thread(target=stream_copy.splice, args=(theirs, program), daemon=True).start()
    return ours


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
