"""The local port: one address for clients, whatever happens to the connection behind it.

This process listens on the port from the start of the tunnel to its end, without a gap in which
another user of the machine could take the port. Each client gets a connection to the gateway of its
own, proved before the client's first byte is read; clients wait while there is none.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING

from hpc.peer_proof import NotProved
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import stream_copy
from hpc.tunnel.transport import LOOPBACK

if TYPE_CHECKING:
    from hpc.tunnel.gateway_dialer import GatewayDialer
    from hpc.tunnel.stream_copy import Stream

BACKLOG = 128
AGAIN_S = 0.2
"""Seconds between two attempts for one client."""
LEAVE_S = 2.0
"""Seconds that closing waits for the answers to waiting clients."""
_DOWN = json.dumps(
    {"error": {"message": "the tunnel to the cluster is down", "type": "tunnel_down", "code": 503}}
).encode()
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_DOWN), _DOWN)
)


class LocalPort:
    """A port of 127.0.0.1 for clients, who wait while no gateway is reached.

    Args:
        port: number of the port; 0 takes a free one.
        patience_s: seconds until a waiting client gets a 503.

    Attributes:
        port: number of the port.
        unproved: set when another program answered in the gateway's place.

    Raises:
        PortTaken: the port cannot be listened on.
    """

    def __init__(self, port: int, *, patience_s: float) -> None:
        self.unproved = threading.Event()
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._dialer: GatewayDialer | None = None
        self._waiting: set[threading.Thread] = set()
        self._closed = False
        self._listener = _listen(port)
        self.port: int = self._listener.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="hpc-port", daemon=True)
        self._thread.start()

    def lead(self, dialer: GatewayDialer) -> None:
        """Let clients through to a gateway, the waiting ones first."""
        self._change(dialer)

    def hold(self) -> None:
        """Make new clients wait; established connections go on."""
        self._change(None)

    def close(self) -> None:
        """Close the port and answer waiting clients with a 503."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._bell.send(b"!")
        self._thread.join()
        deadline = time.monotonic() + LEAVE_S
        for thread in list(self._waiting):
            thread.join(max(deadline - time.monotonic(), 0.0))
        self._bell.close()
        self._ear.close()

    def _change(self, dialer: GatewayDialer | None) -> None:
        with self._changed:
            self._dialer = dialer
            self._changed.notify_all()

    def _serve(self) -> None:
        with self._listener, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            # The ear wakes select() at the end: no timer.
            selector.register(self._ear, selectors.EVENT_READ)
            while selector.select() and not self._closed:
                self._accept()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no file descriptor is free until a connection ends
            time.sleep(AGAIN_S)
            return
        thread = threading.Thread(target=self._carry, args=(sock,), name="hpc-carry", daemon=True)
        self._waiting.add(thread)
        try:
            thread.start()
        except RuntimeError:  # no more threads for this user
            self._waiting.discard(thread)
            sock.close()

    def _carry(self, sock: socket.socket) -> None:
        """Carry one client to the gateway, or answer 503 once the client's patience ends."""
        try:
            line = self._connect()
            if line is None:
                _turn_away(sock)
        finally:
            self._waiting.discard(threading.current_thread())
        if line is not None:
            with contextlib.suppress(OSError):
                sock.setblocking(True)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream_copy.splice(sock, line)

    def _connect(self) -> Stream | None:
        """Return a proved connection to the gateway, or None after a client's patience."""
        deadline = time.monotonic() + self._patience_s
        dialer = self._next(None, deadline)
        while dialer is not None:
            try:
                return dialer.open()
            except NotProved:
                self.unproved.set()
            except OSError:  # the route is closed or silent, and the supervisor will find out
                pass
            dialer = self._next(dialer, deadline)
        return None

    def _next(self, tried: GatewayDialer | None, deadline: float) -> GatewayDialer | None:
        """Return a new way to the gateway at once, or after a pause the tried one."""
        with self._changed:
            if tried is not None:
                self._changed.wait_for(
                    lambda: self._closed or self._dialer is not tried, timeout=AGAIN_S
                )
            self._changed.wait_for(
                lambda: self._closed or self._dialer is not None,
                timeout=max(deadline - time.monotonic(), 0.0),
            )
            if self._closed or (tried is not None and time.monotonic() > deadline):
                return None
            return self._dialer


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
