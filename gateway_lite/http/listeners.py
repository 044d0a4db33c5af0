"""The gateway's listening sockets: TCP, TLS, and a Unix socket for its owner alone."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from hpc.errors import ConfigError, GatewayError

BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Tls:
    """A TLS certificate with its chain, and the private key: paths of PEM files."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Address:
    """The addresses to listen at.

    Attributes:
        host: address or name to bind.
        port: TCP port; 0 takes a free port.
        or_any: take a free port if the port is in use.
        unix: path of an additional Unix socket.
        tls: certificate of an additional listener at ``tls_host`` and ``tls_port``.
    """

    host: str
    port: int
    or_any: bool = False
    unix: str | None = None
    tls: Tls | None = None
    tls_host: str = "0.0.0.0"  # noqa: S104 - TLS is for clients on other machines
    tls_port: int = 0

    def open_hosts(self) -> list[str]:
        """Return the addresses that other machines may reach."""
        hosts = [self.host] if self.tls is None else [self.host, self.tls_host]
        return [host for host in dict.fromkeys(hosts) if not is_loopback(host)]


LOOPBACK_NAMES = {"localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, with its TLS context and the path of a Unix socket."""

    sock: socket.socket
    context: ssl.SSLContext | None = None
    path: str = ""

    def where(self) -> str:
        """Return the address in readable form."""
        if self.path:
            return f"unix:{self.path}"
        host, port = self.sock.getsockname()[:2]
        return (
            f"{'https' if self.context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        )


def open_all(address: Address) -> list[Listener]:
    """Return all listeners; the TCP socket of ``host`` and ``port`` is the first.

    Raises:
        GatewayError: a socket cannot be bound; none stays open then.
        ConfigError: certificate or key is not usable, or the folder of a Unix socket is open to
            others.
    """
    with contextlib.ExitStack() as opened:
        context = None if address.tls is None else tls_context(address.tls)
        first = listen(address.host, address.port, or_any=address.or_any)
        opened.callback(first.close)
        found = [Listener(first)]
        if context is not None:
            found.append(Listener(listen(address.tls_host, address.tls_port), context))
            opened.callback(found[-1].sock.close)
        if address.unix is not None:
            found.append(Listener(listen_unix(Path(address.unix)), path=address.unix))
        opened.pop_all()
    return found


def close_all(listeners: list[Listener]) -> None:
    """Close the listeners, and remove the file of a Unix socket."""
    for listener in listeners:
        listener.sock.close()
        if listener.path:
            with contextlib.suppress(OSError):
                Path(listener.path).unlink()


def listen(host: str, port: int, *, or_any: bool = False) -> socket.socket:
    """Return a listening TCP socket.

    Args:
        host: address or name to bind.
        port: TCP port; 0 takes a free port.
        or_any: take a free port if the port is in use.

    Raises:
        GatewayError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if or_any:
            return listen(host, 0)
        raise GatewayError(f"cannot listen on {host}:{port}: {_reason(error)}") from error


def listen_unix(path: Path) -> socket.socket:
    """Return a Unix socket that only the owner can open, from creation on.

    Raises:
        GatewayError: the path cannot be bound, or another process listens there.
        ConfigError: others may write to the socket's folder.
    """
    _check_folder(path)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode at bind, not chmod afterwards: between the two, others could connect.
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise GatewayError(f"cannot listen on {path}: {_reason(error)}") from error
    finally:
        os.umask(before)
    return sock


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return the TLS context for a certificate.

    Raises:
        ConfigError: certificate or key is not usable, or others may read the key.
    """
    try:
        mode = Path(tls.key).stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"{tls.key} is open to others (mode {stat.S_IMODE(mode):o}) and is not used",
                hint=f"chmod 600 {tls.key}",
            )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # An encrypted key fails here; without a password OpenSSL would ask at the terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")  # nosec B106 - none is asked for
    except OSError as error:  # includes ssl.SSLError
        reason = str(error) if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
        raise ConfigError(f"cannot use {tls.cert} with {tls.key}: {reason}") from error
    return context


def check_open(address: Address, *, anonymous: bool) -> None:
    """Refuse anonymous access from other machines.

    Raises:
        ConfigError: no key is required, and other machines can reach the gateway.
    """
    hosts = address.open_hosts()
    if anonymous and hosts:
        raise ConfigError(
            "gateway.anonymous is allowed on loopback and Unix sockets only, and this gateway"
            f" listens on {' and '.join(hosts)}"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.lower().rstrip(".") in LOOPBACK_NAMES
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _check_folder(path: Path) -> None:
    try:
        found = path.parent.stat()
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {str(error.strerror).lower()}") from error
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"others may write to {path.parent}, so no socket is made there",
            hint="name a path in a folder of yours, mode 0700",
        )


def _clear(path: Path) -> None:
    """Remove the socket file of an ended process."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise GatewayError(f"cannot listen on {path}: the existing file is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise GatewayError(f"cannot listen on {path}: {_reason(error)}") from error
        else:
            raise GatewayError(f"cannot listen on {path}: another process listens there")


def _reason(error: OSError) -> str:
    """Return the plain reason of an error, without the address that the library repeats."""
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno).lower() if known and error.errno else str(error).lower()
