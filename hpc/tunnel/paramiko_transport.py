"""The transport inside this process, over paramiko, for machines without an ssh program."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import paramiko

from hpc.processes.programs import Result
from hpc.tunnel import errors as tunnel_errors
from hpc.tunnel import paramiko_auth, relay, stream_copy
from hpc.tunnel.transport import CONNECT_S, LOOPBACK

if TYPE_CHECKING:
    from hpc.tunnel.login import Login
    from hpc.tunnel.stream_copy import Stream
    from hpc.tunnel.transport import Route

logging.getLogger("paramiko").addHandler(logging.NullHandler())


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
            transport = self._transport()
            channel = transport.open_channel(
                "direct-tcpip", way.to, (LOOPBACK, 0), timeout=timeout_s
            )
            return _Line(channel)
        except (paramiko.SSHException, EOFError) as error:
            # paramiko tells a time limit by the text of its error alone.
            kind = TimeoutError if str(error).startswith("Timeout") else ConnectionError
            raise kind(paramiko_auth.reason(error)) from error

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
