"""Copying of bytes between the two ends of a connection, both ways, to the last byte."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol

from hpc.processes import programs

if TYPE_CHECKING:
    from hpc.processes.programs import Process

CHUNK = 64 * 1024


class Stream(Protocol):
    """The common interface of sockets, paramiko's channels and a program's pipes."""

    def recv(self, size: int, /) -> bytes:
        """Return available bytes up to a size; b"" at the end."""

    def sendall(self, data: bytes, /) -> object:
        """Send all bytes."""

    def settimeout(self, timeout_s: float | None, /) -> object:
        """Limit the seconds of each later call of ``recv``, which then raises TimeoutError."""

    def shutdown(self, how: int, /) -> object:
        """Announce the end of the bytes from this side."""

    def close(self) -> object:
        """Close the stream."""


class Pipes:
    """A program's input and output as a single stream."""

    def __init__(self, program: Process[bytes]) -> None:
        self._program = program
        self._timeout_s: float | None = None

    def recv(self, size: int) -> bytes:
        """Return output of the program."""
        out = self._program.stdout
        assert out is not None  # noqa: S101 - as it was started
        if self._timeout_s is not None:
            # poll() and not select(), which fails for descriptors above 1023.
            ready = select.poll()
            ready.register(out, select.POLLIN)
            if not ready.poll(self._timeout_s * 1000):
                raise TimeoutError("no output in time")
        return out.read(size) or b""

    def sendall(self, data: bytes) -> None:
        """Write all bytes to the program's input."""
        assert self._program.stdin is not None  # noqa: S101
        # An unbuffered pipe may accept only a part of the data.
        view = memoryview(data)
        while view:
            view = view[self._program.stdin.write(view) or 0 :]

    def settimeout(self, timeout_s: float | None) -> None:
        """Limit the seconds of each later call of ``recv``."""
        self._timeout_s = timeout_s

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
    """Copy a direction; an error ends both directions, an orderly end only the copied one."""
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


def receive(stream: Stream, deadline: float) -> bytes:
    """Return at least one byte of a stream before a deadline.

    Args:
        stream: the stream.
        deadline: time of the monotonic clock; a far end that sends a byte now and then gains none.

    Raises:
        OSError: the stream ended; TimeoutError at the deadline.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    stream.settimeout(left)
    data = stream.recv(CHUNK)
    if not data:
        raise ConnectionError("the connection was closed")
    return data


def skip_to(stream: Stream, mark: bytes, timeout_s: float, *, most: int = 1 << 20) -> None:
    """Read a stream up to the end of a mark, after which nothing may have come yet.

    Raises:
        OSError: the mark did not come, or more came; TimeoutError if not in time.
    """
    deadline = time.monotonic() + timeout_s
    seen = b""
    while mark not in seen:
        if len(seen) > most:
            raise ConnectionError("the mark did not come")
        seen += receive(stream, deadline)
    if seen.partition(mark)[2]:
        raise ConnectionError("the far end spoke first")
