"""The transport inside this process: paramiko for the connection, sshtunnel for the port.

For machines without an ssh program. sshtunnel by itself sends keys and passwords to whatever
answers, so it never connects here: paramiko connects, compares the host key with known_hosts,
authenticates after that, and lends sshtunnel the finished connection.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.hostkeys import InvalidHostKey
from sshtunnel import BaseSSHTunnelForwarderError, SSHTunnelForwarder

from hpc.errors import ConfigError, TunnelError
from hpc.process import Result
from hpc.tunnel import failures
from hpc.tunnel.link import ALIVE_COUNT, ALIVE_S, CONNECT_S, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpc.tunnel.login import Login

USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
BACKLOG = 128
"""Connections that may wait for a thread; socketserver's 5 delays a burst by a second."""

logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class _Settings:
    host: str
    port: int
    user: str
    identities: tuple[str, ...]
    known_hosts: tuple[Path, ...]


class _Forwarder(SSHTunnelForwarder):  # type: ignore[misc]  # sshtunnel has no types
    """Sshtunnel's forwarder over a connection that is already verified and authenticated."""

    def __init__(self, transport: paramiko.Transport, port: int, to: tuple[str, int]) -> None:
        self._transport = transport
        super().__init__(
            "connected",
            ssh_config_file=None,
            local_bind_address=(LOOPBACK, port),
            remote_bind_address=to,
            logger=logger,
        )

    @staticmethod
    def _consolidate_auth(**_: Any) -> tuple[None, list[paramiko.PKey]]:
        """Look for no keys: there is nothing left to prove."""
        return None, []

    def let_go(self) -> None:
        """Forget the connection, which would otherwise end with this object."""
        del self._transport

    def _connect_to_gateway(self) -> None:
        """Never connect: a lost connection is opened again by whoever verified the first."""


class InProcess:
    """An SSH connection of this process.

    Args:
        login: whose it is, for messages.
        client: a connected client.
    """

    def __init__(self, login: Login, client: paramiko.SSHClient) -> None:
        self._login = login
        self._client = client
        self._forwarders: list[_Forwarder] = []

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a command line there and return what it said, whatever its exit status."""
        try:
            stdin, stdout, stderr = self._client.exec_command(command, timeout=timeout_s)
            stdin.close()
            said, complained = stdout.read(), stderr.read()
            status = stdout.channel.recv_exit_status()
        except TimeoutError as error:
            self.close()
            raise failures.too_slow(self._login, timeout_s) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise failures.unreachable(self._login, _reason(error)) from error
        return Result(
            (command,), status, said.decode(errors="replace"), complained.decode(errors="replace")
        )

    def forward(self, port: int, to: tuple[str, int]) -> None:
        """Let a port of 127.0.0.1 here lead to a host and port as the login node sees them."""
        forwarder = _Forwarder(self._transport(), port, to)
        try:
            forwarder.start()
        except BaseSSHTunnelForwarderError as error:
            forwarder.let_go()
            raise failures.port_refused(port) from error
        for server in forwarder._server_list:  # noqa: SLF001 - sshtunnel offers no way to its socket
            server.socket.listen(BACKLOG)
            server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._forwarders.append(forwarder)

    def alive(self) -> bool:
        """Tell whether the connection still stands, without a round trip."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def close(self) -> None:
        """End the connection and its forwarded ports."""
        for forwarder in self._forwarders:
            forwarder.stop()
        self._forwarders.clear()
        self._client.close()

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise failures.unreachable(self._login, "the connection was lost")
        return transport


def open_link(login: Login, *, interactive: bool) -> InProcess:
    """Connect with paramiko.

    Args:
        login: where to, and as whom.
        interactive: of no effect yet: keys and agent only, known hosts only.

    Raises:
        TunnelError: the host or its key is not the one expected, or nobody let us in.
    """
    del interactive
    settings = _settings(login)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        _load_known_hosts(client, settings.known_hosts)
        _connect(client, login, settings)
    except BaseException:
        client.close()
        raise
    return InProcess(login, client)


def _load_known_hosts(client: paramiko.SSHClient, paths: tuple[Path, ...]) -> None:
    for path in paths:
        try:
            if path.is_file():
                client.get_host_keys().load(str(path))
        except (InvalidHostKey, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the known hosts in {path}: {error}") from error


def _connect(client: paramiko.SSHClient, login: Login, settings: _Settings) -> None:
    try:
        client.connect(
            settings.host,
            settings.port,
            settings.user,
            key_filename=list(settings.identities),  # type: ignore[arg-type]  # stubs forget lists
            allow_agent=login.identity is None,
            look_for_keys=login.identity is None,
            sock=_socket(login, settings),
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
        )
    except paramiko.BadHostKeyException as error:
        raise failures.changed_key(login) from error
    except paramiko.PasswordRequiredException as error:
        raise TunnelError(
            f"the private key for {login} has a passphrase",
            hint="add it to your agent with ssh-add, or use --transport openssh",
        ) from error
    except paramiko.AuthenticationException as error:
        raise failures.denied(login) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise _not_connected(login, error) from error
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(ALIVE_S)


def _socket(login: Login, settings: _Settings) -> socket.socket:
    try:
        connection = socket.create_connection((settings.host, settings.port), CONNECT_S)
    except socket.gaierror as error:
        raise failures.not_found(login) from error
    except OSError as error:
        raise failures.unreachable(login, _reason(error)) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # paramiko's keep-alives wait for no answer: the kernel notices that none comes.
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        dead_ms = ALIVE_S * ALIVE_COUNT * 1000
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_ms)
    return connection


def _not_connected(login: Login, error: Exception) -> TunnelError:
    text = str(error)
    if "not found in known_hosts" in text:
        return failures.unknown_host(login)
    if "No authentication methods available" in text:
        return failures.denied(login)
    return failures.unreachable(login, _reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "the connection was closed"


def _settings(login: Login) -> _Settings:
    """Join the options given with the SSH configuration, as ssh would."""
    found = _configured(login)
    if found.get("proxyjump", "none") != "none" or found.get("proxycommand", "none") != "none":
        raise TunnelError(
            f"{login.host} is reached through a jump host, which the paramiko transport cannot do",
            hint="use --transport openssh",
        )
    user_hosts = str(found.get("userknownhostsfile", USER_KNOWN_HOSTS))
    global_hosts = str(found.get("globalknownhostsfile", GLOBAL_KNOWN_HOSTS))
    identities = (str(login.identity),) if login.identity else _identities(found)
    return _Settings(
        host=str(found.get("hostname", login.host)),
        port=_port(found),
        user=login.user or str(found.get("user") or getpass.getuser()),
        identities=identities,
        known_hosts=tuple(
            Path(name).expanduser() for name in f"{user_hosts} {global_hosts}".split()
        ),
    )


def _configured(login: Login) -> Mapping[str, Any]:
    path = login.config or Path("~/.ssh/config").expanduser()
    try:
        config = paramiko.SSHConfig.from_path(str(path)) if path.is_file() else paramiko.SSHConfig()
        found: dict[str, Any] = dict(config.lookup(login.host))
    except (paramiko.SSHException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the SSH configuration {path}: {error}") from error
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
