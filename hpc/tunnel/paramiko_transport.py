"""The transport inside this process: paramiko for the connection, sshtunnel for its channels.

For machines without an ssh program. sshtunnel by itself sends keys and passwords to any server
that answers, and opens its own listening port; so sshtunnel neither connects nor listens here. It
borrows a verified and authenticated connection, and gets the clients of our own port.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import paramiko
from sshtunnel import (
    HandlerSSHTunnelForwarderError,
    SSHTunnelForwarder,
    _ForwardHandler,
    _ThreadingForwardServer,
)

from hpc.processes.programs import Result
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import paramiko_auth, relay, stream_copy
from hpc.tunnel.transport import CONNECT_S, LOOPBACK

if TYPE_CHECKING:
    import socket

    from hpc.errors import TunnelError
    from hpc.tunnel.login import Login
    from hpc.tunnel.transport import Route

logger = logging.getLogger(__name__)
logger.addHandler(logging.NullHandler())
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _Unbound(_ThreadingForwardServer):  # type: ignore[misc]  # sshtunnel has no types
    """Sshtunnel's server without a listening socket."""

    def server_bind(self) -> None:
        """Leave the port to LocalPort, which keeps the port while no connection is up."""

    def server_activate(self) -> None:
        """Do not listen: connections are handed over."""


class _Forwarder(SSHTunnelForwarder):  # type: ignore[misc]
    """Sshtunnel's forwarder over a verified and authenticated connection."""

    def __init__(self, transport: paramiko.Transport, to: tuple[str, int]) -> None:
        self._transport = transport
        super().__init__(
            "connected",
            ssh_config_file=None,
            # A number for sshtunnel's checks; _Unbound never binds the port.
            local_bind_address=(LOOPBACK, 1),
            remote_bind_address=to,
            logger=logger,
        )
        self._create_tunnels()
        (self.server,) = self._server_list
        self.server.server_close()

    @staticmethod
    def _consolidate_auth(**_: Any) -> tuple[None, list[paramiko.PKey]]:
        """Skip the search for keys: the connection is authenticated."""
        return None, []

    def _make_ssh_forward_server_class(self, _: Any) -> type[_Unbound]:
        return _Unbound

    def _make_ssh_forward_handler_class(self, to: Any) -> Any:
        class Handler(_ForwardHandler):  # type: ignore[misc]
            remote_address, ssh_transport, logger = to, self._transport, self.logger

            def _redirect(self, chan: paramiko.Channel) -> None:
                """Carry each direction in a thread: sshtunnel's loop cannot half-close."""
                stream_copy.splice(self.request, chan)

        return Handler

    def _connect_to_gateway(self) -> None:
        """Do not connect: a lost connection is reopened, and verified, by its owner."""

    def __del__(self) -> None:
        """Leave the connection open; sshtunnel would close the connection with this object."""


class InProcess:
    """An SSH connection of this process.

    Args:
        login: the connection's account, for messages.
        clients: connected clients: the login node's, then those of its jump hosts.
    """

    owns_ports = False

    def __init__(self, login: Login, clients: list[paramiko.SSHClient]) -> None:
        self._login = login
        self._clients = clients
        self._forwarders: dict[tuple[str, int], _Forwarder] = {}
        self._lock = threading.Lock()

    def run(self, command: str, *, timeout_s: float) -> Result:
        """Run a remote command line and return its output, whatever the exit status."""
        try:
            # The words are quoted by discovery.
            stdin, stdout, stderr = self._clients[0].exec_command(  # nosec B601
                command, timeout=timeout_s
            )
            stdin.close()
            said, complained = stdout.read(), stderr.read()
            status = stdout.channel.recv_exit_status()
        except TimeoutError as error:
            self.close()
            raise tunnel_errors.too_slow(self._login, timeout_s) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise tunnel_errors.unreachable(self._login, paramiko_auth.reason(error)) from error
        return Result(
            (command,), status, said.decode(errors="replace"), complained.decode(errors="replace")
        )

    def forward(self, port: int, way: Route) -> None:
        """Do nothing: the transport opens no ports; see ``owns_ports``."""

    def unforward(self, port: int, way: Route) -> None:
        """Do nothing, as ``forward``."""

    def carry(self, sock: socket.socket, way: Route) -> bool:
        """Carry one connection to its end."""
        try:
            if way.relay is not None:
                return self._relay(sock, way.relay)
            if isinstance(way.to, str):
                return False
            server = self._forwarder(way.to).server
            server.finish_request(sock, (LOOPBACK, 0))
        except (HandlerSSHTunnelForwarderError, paramiko.SSHException, OSError, EOFError):
            return False
        return True

    def _forwarder(self, to: tuple[str, int]) -> _Forwarder:
        with self._lock:
            if to not in self._forwarders:
                self._forwarders[to] = _Forwarder(self._transport(), to)
            return self._forwarders[to]

    def _relay(self, sock: socket.socket, command: str) -> bool:
        channel = self._transport().open_session(timeout=CONNECT_S)
        channel.exec_command(command)  # nosec B601 - the words are quoted by discovery
        early = stream_copy.skip_to(channel.recv, relay.MARK)
        if early is None:
            channel.close()
            return False
        with contextlib.suppress(OSError):
            sock.sendall(early)
        stream_copy.splice(sock, channel)
        return True

    def alive(self) -> bool:
        """Return whether the connection still stands, without a round trip."""
        transport = self._clients[0].get_transport()
        return transport is not None and transport.is_active()

    def wait(self, timeout_s: float) -> None:
        """Wait for the connection's end, at most a number of seconds."""
        transport = self._clients[0].get_transport()
        if transport is not None:
            transport.join(timeout_s)

    def close(self) -> None:
        """Close the connection and its channels."""
        with self._lock:
            self._forwarders.clear()
        for client in self._clients:
            client.close()

    def _transport(self) -> paramiko.Transport:
        transport = self._clients[0].get_transport()
        if transport is None or not transport.is_active():
            raise self._lost()
        return transport

    def _lost(self) -> TunnelError:
        return tunnel_errors.unreachable(self._login, "the connection was lost")


def open_link(
    login: Login, *, interactive: bool, borrow: bool = False, timeout_s: float = CONNECT_S
) -> InProcess:
    """Connect with paramiko, through the jump hosts of the SSH configuration.

    Args:
        login: account and host.
        interactive: whether passwords, codes and new host keys may be asked for.
        borrow: without effect, as paramiko has no connection to share.
        timeout_s: seconds for each host to answer.

    Raises:
        TunnelError: the host or its key is not the expected one, or the host refused the account.
    """
    del borrow
    return InProcess(
        login, paramiko_auth.connect(login, interactive=interactive, timeout_s=timeout_s)
    )
