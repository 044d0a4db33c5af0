"""The local port: one address for clients, whatever happens to the connection behind it.

Where the ssh program forwards, it listens itself, which costs nothing on the way; the port is ours
again as soon as that ends. Clients that come meanwhile wait.
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

from hpc.tunnel import failures
from hpc.tunnel.failures import PortTaken
from hpc.tunnel.link import LOOPBACK

if TYPE_CHECKING:
    from hpc.tunnel.link import Link, Way

BACKLOG = 128
RETAKE_S = 5.0
"""Seconds that an ssh which ends may keep the port."""
AGAIN_S = 0.2
_DOWN = json.dumps(
    {"error": {"message": "the tunnel to the cluster is down", "type": "tunnel_down", "code": 503}}
).encode()
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_DOWN), _DOWN)
)


class LocalPort:
    """A port of 127.0.0.1 whose clients wait until it leads somewhere.

    Args:
        port: its number; 0 takes a free one.
        patience_s: seconds that a client waits before it is told that there is no way.

    Raises:
        PortTaken: it cannot be listened on.
    """

    def __init__(self, port: int, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._held: list[tuple[float, socket.socket]] = []
        self._link: Link | None = None
        self._way: Way | None = None
        self._closed = False
        self._listener: socket.socket | None = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="hpc-port", daemon=True)
        self._thread.start()

    def lead(self, link: Link, way: Way) -> None:
        """Let clients through, those who wait first.

        Raises:
            TunnelError: the link is gone, or somebody else took the port.
        """
        with self._lock:
            self._link, self._way = link, way
            if link.owns_ports and way.relay is None:
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
        """Let clients wait; those who are through go on.

        Raises:
            PortTaken: somebody else took the port.
        """
        with self._lock:
            link, way = self._link, self._way
            self._link = None
            if link is not None and way is not None:
                link.unforward(self.port, way)
            self._listen_again()

    def close(self) -> None:
        """Give up the port and send those who wait away."""
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
            # A thread that waits for it would keep it listening beyond its close.
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
        """Take in all who knock."""
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

    def _carry(self, since: float, sock: socket.socket, link: Link, way: Way) -> None:
        if link.carry(sock, way):
            return
        # Nothing was read from it: it may wait for another way, or for this one to come back.
        time.sleep(AGAIN_S)
        if self._closed or time.monotonic() - since > self._patience_s:
            _turn_away(sock)
        else:
            self._start(since, sock)

    def _expire(self) -> None:
        """Send those away who have waited long enough."""
        oldest = time.monotonic() - self._patience_s
        late = [sock for since, sock in self._held if since < oldest]
        self._held = [(since, sock) for since, sock in self._held if since >= oldest]
        for sock in late:
            _turn_away(sock)


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=BACKLOG)
    except OSError as error:
        raise failures.port_refused(port) from error
    listener.setblocking(False)
    return listener


def _turn_away(sock: socket.socket) -> None:
    """Answer in the clients' own language; they asked over HTTP."""
    with contextlib.suppress(OSError), sock:
        sock.settimeout(1)
        sock.sendall(UNAVAILABLE)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
