"""The login node's end of a tunnel on servers that forbid forwarding: a connection on stdio.

The laptop starts one relay over the SSH connection for each of its own connections. The relay
first prints a mark, since start-up files of the login shell may have printed text before.
"""

from __future__ import annotations

import os
import socket
import threading

from hpc.errors import ConfigError, TunnelError
from hpc.tunnel import own_socket

MARK = b"\x00hpc-serve relay\x00"
CHUNK = 64 * 1024
CONNECT_S = 15.0


def address(text: str) -> tuple[str, int] | str:
    """Parse ``HOST:PORT``, or the path of a Unix socket.

    Raises:
        ConfigError: the text is neither.
    """
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"not an address to relay to: {text!r}; write HOST:PORT or /PATH")
    return host.strip("[]"), int(port)


def relay(to: tuple[str, int] | str, stdin: int = 0, stdout: int = 1) -> None:
    """Copy bytes between two file descriptors and a connection, until the connection ends.

    Args:
        to: host and port, or the path of a Unix socket.
        stdin: descriptor with the client's bytes.
        stdout: descriptor for the answer, after the mark.

    Raises:
        TunnelError: the address does not answer.
    """
    with _connect(to) as sock:
        # Only now: without the mark the laptop keeps the client's connection for another route.
        os.write(stdout, MARK)
        threading.Thread(target=_upward, args=(stdin, sock), daemon=True).start()
        while data := _receive(sock):
            try:
                _write(stdout, data)
            except OSError:  # the client has gone
                return


def _connect(to: tuple[str, int] | str) -> socket.socket:
    try:
        if isinstance(to, str):
            sock = own_socket.connect(to, CONNECT_S)
        else:
            sock = socket.create_connection(to, CONNECT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise TunnelError(f"nothing answers at {to}: {error.strerror or error}") from error
    sock.settimeout(None)
    return sock


def _upward(stdin: int, sock: socket.socket) -> None:
    try:
        while data := os.read(stdin, CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        sock.close()


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(CHUNK)
    except OSError:
        return b""


def _write(stdout: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stdout, view) :]
