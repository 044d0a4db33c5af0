"""Where a gateway listens: TCP, a Unix socket of its owner alone, TLS; several at once."""

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
    """A certificate, with its chain, and its key: PEM files."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: address or name to bind.
        port: TCP port; 0 takes a free one.
        or_any: take a free port where this one is in use.
        unix: path of a Unix socket to listen on too.
        tls: certificate of a further listener, on ``tls_host`` and ``tls_port``.
    """

    host: str
    port: int
    or_any: bool = False
    unix: str | None = None
    tls: Tls | None = None
    tls_host: str = "0.0.0.0"  # noqa: S104 - what others reach is what TLS is for
    tls_port: int = 0

    def closed(self) -> bool:
        """Tell whether only this machine reaches us."""
        return self.tls is None and is_loopback(self.host)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, what speaks on it, and its file where it has one."""

    sock: socket.socket
    context: ssl.SSLContext | None = None
    path: str = ""

    def where(self) -> str:
        """Return its address as people write it."""
        if self.path:
            return f"unix:{self.path}"
        host, port = self.sock.getsockname()[:2]
        return (
            f"{'https' if self.context else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        )


def open_all(address: Address) -> list[Listener]:
    """Return everything that listens; the TCP socket of ``host`` and ``port`` is the first.

    Raises:
        GatewayError: one of them cannot be had; none is left open then.
        ConfigError: certificate or key cannot be used, or the folder of a Unix socket is open to
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
    """Close them, and remove the file of a Unix socket."""
    for listener in listeners:
        listener.sock.close()
        if listener.path:
            with contextlib.suppress(OSError):
                Path(listener.path).unlink()


def listen(host: str, port: int, *, or_any: bool = False) -> socket.socket:
    """Return a TCP socket that already listens.

    Args:
        host: address or name to bind.
        port: TCP port; 0 takes a free one.
        or_any: take a free port where this one is in use.

    Raises:
        GatewayError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if or_any:
            return listen(host, 0)
        raise GatewayError(f"cannot listen on {host}:{port}: {_reason(error)}") from error


def listen_unix(path: Path) -> socket.socket:
    """Return a Unix socket that only its owner can open, from its first moment on.

    Raises:
        GatewayError: it cannot be bound, or somebody listens there.
        ConfigError: others may write to its folder.
    """
    _check_folder(path)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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
    """Return what speaks TLS with a certificate.

    Raises:
        ConfigError: certificate or key cannot be used, or others may read the key.
    """
    try:
        mode = Path(tls.key).stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(
                f"{tls.key} is open to others (mode {stat.S_IMODE(mode):o}) and is not used",
                hint=f"chmod 600 {tls.key}",
            )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:  # of which ssl.SSLError is one
        reason = str(error) if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
        raise ConfigError(f"cannot use {tls.cert} with {tls.key}: {reason}") from error
    return context


def check_open(address: Address, *, anonymous: bool) -> None:
    """Refuse to let everybody in from everywhere.

    Raises:
        ConfigError: no key is asked for, and other machines reach us.
    """
    if anonymous and not address.closed():
        raise ConfigError(
            "gateway.anonymous is allowed on loopback and Unix sockets only, and this gateway"
            f" listens on {address.host if address.tls is None else address.tls_host}"
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
    """Remove the socket of a process that is gone."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise GatewayError(f"cannot listen on {path}: a file is there that is no socket")
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
            raise GatewayError(f"cannot listen on {path}: somebody listens there")


def _reason(error: OSError) -> str:
    """Return the plain reason; the library adds the address once more, or has its own numbers."""
    known = error.errno is not None and error.errno > 0
    return os.strerror(error.errno).lower() if known and error.errno else str(error).lower()
