"""The protocol of an ssh master's control socket: open or close a forward, ask for the process id.

Implemented here, because each question then goes to a listener whose user is checked, and costs no
start of the ssh program.

Source: PROTOCOL.mux of OpenSSH, version 4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hpc.tunnel import own_socket

if TYPE_CHECKING:
    import socket
    from pathlib import Path

HELLO, VERSION = 1, 4
ALIVE_CHECK, OPEN_FORWARD, CLOSE_FORWARD = 0x10000004, 0x10000006, 0x10000007
OK, ALIVE = 0x80000001, 0x80000005
LOCAL = 1
STREAMLOCAL = 0xFFFFFFFE
"""Port number that marks the name before it as a Unix socket's path."""
ANSWER_S = 15.0
LARGEST = 256 * 1024


class MuxError(Exception):
    """The master is gone or refused."""


def master_pid(control: Path) -> int:
    """Return the process id of the master behind a control socket.

    Raises:
        MuxError: no master answers.
    """
    kind, rest = _ask(control, ALIVE_CHECK, b"")
    if kind != ALIVE:
        raise MuxError(f"answer {kind:#x}")
    return int(struct.unpack(">I", rest[:4])[0])


def open_forward(control: Path, listen: Path, to: tuple[str, int] | str) -> None:
    """Make the master listen on a Unix socket, for connections to a host and port or Unix socket.

    Raises:
        MuxError: the master is gone, or cannot listen.
    """
    _forward(control, OPEN_FORWARD, listen, to)


def close_forward(control: Path, listen: Path, to: tuple[str, int] | str) -> None:
    """Make the master stop listening; established connections go on.

    Raises:
        MuxError: the master is gone, or did not listen.
    """
    _forward(control, CLOSE_FORWARD, listen, to)


def _forward(control: Path, what: int, listen: Path, to: tuple[str, int] | str) -> None:
    ours = _end(str(listen), STREAMLOCAL)
    theirs = _end(to, STREAMLOCAL) if isinstance(to, str) else _end(*to)
    kind, rest = _ask(control, what, struct.pack(">I", LOCAL) + ours + theirs)
    if kind != OK:
        raise MuxError(rest[4:].decode(errors="replace") or f"answer {kind:#x}")


def _end(name: str, port: int) -> bytes:
    text = name.encode()
    return struct.pack(">I", len(text)) + text + struct.pack(">I", port)


def _ask(control: Path, what: int, body: bytes) -> tuple[int, bytes]:
    """Send a request on a separate connection; return the answer's kind and content."""
    try:
        with own_socket.connect(control, ANSWER_S) as line:
            _send(line, struct.pack(">II", HELLO, VERSION))
            _receive(line)
            _send(line, struct.pack(">II", what, 0) + body)
            answer = _receive(line)
    except OSError as error:
        raise MuxError(str(error)) from error
    if len(answer) < 8:
        raise MuxError("half an answer")
    return int(struct.unpack(">I", answer[:4])[0]), answer[8:]


def _send(line: socket.socket, packet: bytes) -> None:
    line.sendall(struct.pack(">I", len(packet)) + packet)


def _receive(line: socket.socket) -> bytes:
    (length,) = struct.unpack(">I", _exactly(line, 4))
    if length > LARGEST:
        raise MuxError(f"an answer of {length} bytes")
    return _exactly(line, length)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = line.recv(count - len(data))
        if not piece:
            raise MuxError("the master closed the connection")
        data += piece
    return data
