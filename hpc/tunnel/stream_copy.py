"""Copying of bytes between the two ends of a connection, both ways, to the last byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Protocol

from hpc.processes import programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.processes.programs import Process

CHUNK = 64 * 1024


class Stream(Protocol):
    """The common interface of sockets, paramiko's channels and a program's pipes."""

    def recv(self, size: int, /) -> bytes:
        """Return available bytes up to a size; b"" at the end."""

    def sendall(self, data: bytes, /) -> object:
        """Send all bytes."""

    def shutdown(self, how: int, /) -> object:
        """Announce the end of the bytes from this side."""

    def close(self) -> object:
        """Close the stream."""


class Pipes:
    """A program's input and output as a single stream."""

    def __init__(self, program: Process[bytes]) -> None:
        self._program = program

    def recv(self, size: int) -> bytes:
        """Return output of the program."""
        assert self._program.stdout is not None  # noqa: S101 - as it was started
        return self._program.stdout.read(size) or b""

    def sendall(self, data: bytes) -> None:
        """Write all bytes to the program's input."""
        assert self._program.stdin is not None  # noqa: S101
        # An unbuffered pipe may accept only a part of the data.
        view = memoryview(data)
        while view:
            view = view[self._program.stdin.write(view) or 0 :]

    def shutdown(self, how: int) -> None:
        """Close the program's input, or end the program."""
        if how == socket.SHUT_WR and self._program.stdin is not None:
            self._program.stdin.close()
        else:
            self._program.terminate()

    def close(self) -> None:
        """End the program, whatever its state."""
        programs.stop(self._program, grace_s=2)
        for pipe in (self._program.stdin, self._program.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def splice(one: Stream, other: Stream) -> None:
    """Copy bytes between two streams until both end, then close both."""
    back = threading.Thread(target=_half, args=(other, one), daemon=True)
    back.start()
    try:
        _half(one, other)
        back.join()
    finally:
        for end in (one, other):
            with contextlib.suppress(OSError, EOFError):
                end.close()


def _half(source: Stream, sink: Stream) -> None:
    """Copy one direction; an error ends both directions, an orderly end only the copied one."""
    try:
        while data := source.recv(CHUNK):
            sink.sendall(data)
    except (OSError, EOFError, ValueError):
        _shut(source, socket.SHUT_RDWR)
        _shut(sink, socket.SHUT_RDWR)
    else:
        _shut(sink, socket.SHUT_WR)


def _shut(stream: Stream, how: int) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError):
        stream.shutdown(how)


def skip_to(read: Callable[[int], bytes], mark: bytes, *, most: int = 1 << 20) -> bytes | None:
    """Read past a mark and return the bytes after the mark; None if the stream ends first."""
    seen = b""
    while mark not in seen:
        piece = read(CHUNK)
        if not piece or len(seen) > most:
            return None
        seen += piece
    return seen.partition(mark)[2]
