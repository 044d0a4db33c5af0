"""The transport inside this process: paramiko for the connection, sshtunnel for the forwarding.

For machines without an ssh program. sshtunnel by itself sends keys and passwords to any server in
reach and opens a listening port. So sshtunnel neither connects nor listens here: a verified and
authenticated connection is lent out, and each client comes as one end of a pair of sockets. The far
end proves to be the gateway before the first byte of the client, as with the ssh program.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import paramiko
import sshtunnel

from hpc.processes.programs import Result
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import paramiko_auth, relay, stream_copy
from hpc.tunnel.transport import CONNECT_S, LOOPBACK

if TYPE_CHECKING:
    from hpc.tunnel.login import Login
    from hpc.tunnel.stream_copy import Stream
    from hpc.tunnel.transport import Route

logger = logging.getLogger(__name__)
for name in (__name__, "paramiko"):
    logging.getLogger(name).addHandler(logging.NullHandler())


class _Line:
    """A channel whose errors are those of a socket.

    Args:
        channel: an open channel.
    """

    def __init__(self, channel: paramiko.Channel) -> None:
        self.recv = channel.recv
        self.settimeout = channel.settimeout
        self._channel = channel

    def sendall(self, data: bytes, /) -> None:
        """Send all bytes."""
        try:
            self._channel.sendall(data)
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(paramiko_auth.reason(error)) from error

    def shutdown(self, how: int, /) -> None:
        """Announce the end of the bytes from this side."""
        with contextlib.suppress(paramiko.SSHException, EOFError):
            self._channel.shutdown(how)

    def close(self) -> None:
        """Close the channel."""
        with contextlib.suppress(paramiko.SSHException, EOFError):
            self._channel.close()


class _Unbound(sshtunnel._ThreadingForwardServer):  # type: ignore[misc]  # noqa: SLF001
    """A forwarding server of sshtunnel without a listening socket."""

    def server_bind(self) -> None:
        """Leave the port to LocalPort, which keeps the port while no connection is up."""

    def server_activate(self) -> None:
        """Do not listen: connections are handed over."""


class _Forwarder(sshtunnel.SSHTunnelForwarder):  # type: ignore[misc]  # no types
    """A forwarder of sshtunnel over a verified and authenticated connection.

    Args:
        transport: the connection.
        to: host and port as the login node sees them.
    """

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
        (self._server,) = self._server_list
        self._server.server_close()

    def open(self) -> socket.socket:
        """Return a connection; a refusal by the login node shows as the end of the connection."""
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._forward, args=(theirs,), daemon=True).start()
        return ours

    def _forward(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(sshtunnel.HandlerSSHTunnelForwarderError, OSError):
            self._server.finish_request(sock, (LOOPBACK, 0))

    @staticmethod
    def _consolidate_auth(**_: Any) -> tuple[None, list[paramiko.PKey]]:
        """Skip the search for keys: the connection is authenticated."""
        return None, []

    def _make_ssh_forward_server_class(self, _: Any) -> type[_Unbound]:
        return _Unbound

    def _make_ssh_forward_handler_class(self, to: Any) -> Any:
        class Handler(sshtunnel._ForwardHandler):  # type: ignore[misc]  # noqa: SLF001
            remote_address, ssh_transport, logger = to, self._transport, self.logger

            def _redirect(self, chan: paramiko.Channel) -> None:
                """Carry each direction in a thread: sshtunnel's loop cannot half-close."""
                stream_copy.splice(self.request, _Line(chan))

        return Handler

    def _connect_to_gateway(self) -> None:
        """Do not connect: a lost connection is reopened, and verified, by the supervisor."""

    def __del__(self) -> None:
        """Leave the connection open; sshtunnel would close the connection with this object."""


class InProcess:
    """An SSH connection of this process.

    Args:
        login: the connection's account, for messages.
        clients: connected clients: the login node's, then those of its jump hosts.
        notes: sentences on the configuration for the user.
    """

    def __init__(
        self, login: Login, clients: list[paramiko.SSHClient], notes: tuple[str, ...] = ()
    ) -> None:
        self.notes = notes
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

    def dial(self, way: Route, timeout_s: float) -> Stream:
        """Open a connection along a route."""
        try:
            if way.relay is not None:
                return _Line(self._through_relay(way.relay, timeout_s))
            if isinstance(way.to, str):
                raise ConnectionError("paramiko forwards to ports only")
            return self._forwarder(way.to).open()
        except (paramiko.SSHException, EOFError) as error:
            # paramiko tells a time limit by the text of its error alone.
            kind = TimeoutError if str(error).startswith("Timeout") else ConnectionError
            raise kind(paramiko_auth.reason(error)) from error

    def _forwarder(self, to: tuple[str, int]) -> _Forwarder:
        with self._lock:
            if to not in self._forwarders:
                self._forwarders[to] = _Forwarder(self._transport(), to)
            return self._forwarders[to]

    def _through_relay(self, command: str, timeout_s: float) -> paramiko.Channel:
        channel = self._transport().open_session(timeout=timeout_s)
        # exec_command() waits for ever when the login node is silent; closing ends that.
        timer = threading.Timer(timeout_s, channel.close)
        timer.start()
        try:
            channel.exec_command(command)  # nosec B601 - the words are quoted by discovery
            stream_copy.skip_to(channel, relay.MARK, timeout_s)
        except BaseException:
            channel.close()
            raise
        finally:
            timer.cancel()
        return channel

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
            raise ConnectionError("the connection was lost")
        return transport


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
    notes: list[str] = []
    clients = paramiko_auth.connect(
        login, interactive=interactive, timeout_s=timeout_s, notes=notes
    )
    return InProcess(login, clients, tuple(notes))
