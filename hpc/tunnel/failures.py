"""What can go wrong on the way to a login node, in one sentence each."""

from __future__ import annotations

import errno
import re
import socket
from typing import TYPE_CHECKING

from hpc.errors import TunnelError
from hpc.tunnel.link import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.tunnel.login import Login

_NOISE = re.compile(r"Warning: Permanently added|kex_exchange_identification: |^@|^\s*$")


class Unreachable(TunnelError):  # noqa: N818 - says what is the matter
    """The login node or its gateway does not answer now, and may later; exit code 7."""


class PortTaken(TunnelError):  # noqa: N818 - says what is the matter
    """A port of this machine cannot be listened on; exit code 7."""


def denied(login: Login) -> TunnelError:
    """Nobody let us in."""
    return TunnelError(
        f"permission denied by {login}: it accepted no key or password",
        hint="check the user name, or name a private key with --identity",
    )


def unknown_host(login: Login) -> TunnelError:
    """The host key was never seen here, and nobody could be asked."""
    return TunnelError(
        f"the host key of {login.host} is not known on this machine",
        hint=f"run `ssh {login}` once and compare the fingerprint with the one your site publishes",
    )


def changed_key(login: Login) -> TunnelError:
    """The host key is not the known one: never overridden."""
    return TunnelError(
        f"the host key of {login.host} has changed, so nothing was sent to it",
        hint="somebody may be listening in: ask the site whether it replaced its key, "
        "then remove the old one with ssh-keygen -R",
    )


def not_found(login: Login) -> Unreachable:
    """No name server knows the host; offline, none knows any."""
    return Unreachable(
        f"cannot find a host named {login.host}",
        hint="check the spelling and that this machine is online",
    )


def unreachable(login: Login, reason: str) -> Unreachable:
    """The host is not there, or does not speak SSH."""
    return Unreachable(
        f"cannot reach {login.host}: {reason}",
        hint="check that this machine is online, and whether the site wants a VPN",
    )


def too_slow(login: Login, timeout_s: float) -> Unreachable:
    """A command there did not end; the connection was given up with it."""
    return Unreachable(
        f"a command on {login.host} did not end within {timeout_s:g} s",
        hint="its file system may be slow just now: try again",
    )


def port_refused(port: int, *, holder: str | None = None) -> PortTaken:
    """Say why a local port cannot be listened on, by trying it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            reason = "is not to be had"
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is already in use" if taken else f"is not to be had: {error.strerror}"
    by = f" by {holder}" if holder else ""
    return PortTaken(
        f"port {port} of this machine {reason}{by}",
        hint="choose another with --port, or let --port 0 find a free one",
    )


_SAID: tuple[tuple[re.Pattern[str], Callable[[Login], TunnelError]], ...] = (
    (re.compile(r"HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed"), changed_key),
    (re.compile(r"Host key verification failed|No \S+ host key is known"), unknown_host),
    (re.compile(r"Permission denied \(|Too many authentication failures"), denied),
    (re.compile(r"Could not resolve hostname"), not_found),
)


def from_ssh(login: Login, log: str) -> TunnelError:
    """Turn what the ssh program wrote into one sentence."""
    for pattern, failure in _SAID:
        if pattern.search(log):
            return failure(login)
    told = [line.strip() for line in log.splitlines() if not _NOISE.search(line)]
    last = told[-1] if told else "the connection was closed"
    return unreachable(login, re.sub(r"^ssh: connect to host \S+ port \d+: ", "", last))
