"""The local port: one address for clients, whatever happens to the connection behind it.

With the ssh program, ssh itself listens on the port, since no Python code could forward as cheaply;
when ssh ends, this process takes the port back at once. Clients wait in the meantime.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel.errors import PortTaken
from hpc.tunnel.transport import LOOPBACK

if TYPE_CHECKING:
    from hpc.tunnel.transport import Route, Transport

BACKLOG = 128
RETAKE_S = 5.0
"""Seconds that an ending ssh may still hold the port."""
AGAIN_S = 0.2
_DOWN = json.dumps(
    {"error": {"message": "the tunnel to the cluster is down", "type": "tunnel_down", "code": 503}}
).encode()
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_DOWN), _DOWN)
)


class LocalPort:
    """A port of 127.0.0.1 for clients, who wait while no connection is up.

    Args:
        port: number of the port; 0 takes a free one.
        patience_s: seconds until a waiting client gets a 503.

    Raises:
        PortTaken: the port cannot be listened on.
    """

    def __init__(self, port: int, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._held: list[tuple[float, socket.socket]] = []
        self._link: Transport | None = None
        self._way: Route | None = None
        self._closed = False
        self._listener: socket.socket | None = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="hpc-port", daemon=True)
        self._thread.start()

    def lead(self, link: Transport, way: Route) -> None:
        """Let clients through, the waiting ones first.

        Raises:
            TunnelError: the link is gone, or another process took the port.
        """
        with self._lock:
            self._link, self._way = link, way
            if link.owns_ports and way.relay is None:
                # Closed just before ssh opens it, a gap of about a millisecond. Clients that came
                # before are accepted first, and wait.
                self._unlisten()
                try:
                    link.forward(self.port, way)
                except BaseException:
                    self._link = None
                    self._listen_again()
                    raise
            waiting, self._held = self._held, []
        for since, sock in waiting:
            self._start(since, sock)

    def hold(self) -> None:
        """Make new clients wait; established connections go on.

        Raises:
            PortTaken: another process took the port.
        """
        with self._lock:
            link, way = self._link, self._way
            self._link = None
            if link is not None and way is not None:
                link.unforward(self.port, way)
            self._listen_again()

    def close(self) -> None:
        """Close the port and answer waiting clients with a 503."""
        with self._lock:
            self._closed = True
            self._unlisten()
            for _, sock in self._held:
                _turn_away(sock)
            self._held.clear()
        self._ring()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._bell.close()
        self._ear.close()

    def _listen_again(self) -> None:
        deadline = time.monotonic() + RETAKE_S
        while self._listener is None and not self._closed:
            try:
                self._listener = _listen(self.port)
            except PortTaken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        self._ring()

    def _unlisten(self) -> None:
        if self._listener is not None:
            self._accept(self._listener)
            # close() alone would leave the socket listening while select() in _serve waits on it.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"!")

    def _serve(self) -> None:
        while not self._closed:
            listener = self._listener
            # The ear wakes select() when the listener changes: no timer without waiting clients.
            watched = [self._ear] if listener is None else [self._ear, listener]
            try:
                ready, _, _ = select.select(watched, [], [], 1 if self._held else None)
            except (OSError, ValueError):  # closed meanwhile
                continue
            if self._ear in ready:
                self._ear.recv(4096)
            with self._lock:
                if self._listener is not None and self._listener in ready:
                    self._accept(self._listener)
                self._expire()

    def _accept(self, listener: socket.socket) -> None:
        """Accept every pending client."""
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.ECONNABORTED, errno.EINTR):
                    return
                continue
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(time.monotonic(), sock)

    def _start(self, since: float, sock: socket.socket) -> None:
        with self._lock:
            link, way = self._link, self._way
            if link is None or way is None:
                self._held.append((since, sock))
                return
        target, words = self._carry, (since, sock, link, way)
        threading.Thread(target=target, args=words, name="hpc-carry", daemon=True).start()

    def _carry(self, since: float, sock: socket.socket, link: Transport, way: Route) -> None:
        if link.carry(sock, way):
            return
        # No byte was read from the client, so the client may wait for another route or this one.
        time.sleep(AGAIN_S)
        if self._closed or time.monotonic() - since > self._patience_s:
            _turn_away(sock)
        else:
            self._start(since, sock)

    def _expire(self) -> None:
        """Answer clients past their patience with a 503."""
        oldest = time.monotonic() - self._patience_s
        late = [sock for since, sock in self._held if since < oldest]
        self._held = [(since, sock) for since, sock in self._held if since >= oldest]
        for sock in late:
            _turn_away(sock)


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=BACKLOG)
    except OSError as error:
        raise tunnel_errors.port_refused(port) from error
    listener.setblocking(False)
    return listener


def _turn_away(sock: socket.socket) -> None:
    """Answer a client with a 503 over HTTP, the client's protocol."""
    with contextlib.suppress(OSError), sock:
        sock.settimeout(1)
        sock.sendall(UNAVAILABLE)
        # Closing with unread input would reset the connection, and the client would see no answer.
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
