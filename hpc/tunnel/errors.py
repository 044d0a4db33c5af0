"""Failures on the way to a login node, in a sentence."""

from __future__ import annotations

import errno
import re
import socket
from typing import TYPE_CHECKING

from hpc.errors import TunnelError
from hpc.tunnel.transport import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpc.tunnel.login import Login

_NOISE = re.compile(r"Warning: Permanently added|kex_exchange_identification: |^@|^\s*$")


class Unreachable(TunnelError):  # noqa: N818 - says what is the matter
    """The login node or its gateway does not answer now, but may later; exit code 7."""


class PortTaken(TunnelError):  # noqa: N818 - says what is the matter
    """A port of the machine cannot be listened on; exit code 7."""


def denied(login: Login, problems: Sequence[str] = (), untried: Sequence[str] = ()) -> TunnelError:
    """Return the error for a refused account.

    Args:
        login: the account.
        problems: a clause for each key that could not be used.
        untried: keywords of the configuration for ways to log in that were not tried.
    """
    # Debian's own configuration names a way that is never tried: the usual advice comes before.
    advice = [*problems] or ["check the user name, or name a private key with --identity"]
    if untried:
        named = f"{', '.join(untried)} of the SSH configuration"
        advice.append(f"not tried: {named}: use --transport openssh")
    return TunnelError(
        f"permission denied by {login}: it accepted no key or password",
        hint="; ".join(advice),
    )


def not_followed(login: Login, keywords: Sequence[str]) -> str:
    """Return the note on keywords of the configuration without effect."""
    return (
        f"the paramiko transport does not follow {', '.join(keywords)} of the SSH configuration "
        f"for {login.host}; --transport openssh does"
    )


def unknown_host(login: Login) -> TunnelError:
    """Return the error for an unknown host key, with no user to ask."""
    return TunnelError(
        f"the host key of {login.host} is not known on this machine",
        hint=f"run `ssh {login}` once and compare the fingerprint with the one your site publishes",
    )


def changed_key(login: Login) -> TunnelError:
    """Return the error for a changed host key, which is never overridden."""
    return TunnelError(
        f"the host key of {login.host} has changed, so nothing was sent to it",
        hint="somebody may be listening in: ask the site whether it replaced its key, "
        "then remove the old one with ssh-keygen -R",
    )


def revoked_key(login: Login) -> TunnelError:
    """Return the error for a host key that is marked as revoked, which is never overridden."""
    return TunnelError(
        f"the host key of {login.host} is marked as revoked, so nothing was sent to it",
        hint="somebody may use a stolen key to listen in: ask the site for its new key",
    )


def only_an_authority(login: Login) -> TunnelError:
    """Return the error for a host with a certificate authority alone."""
    return TunnelError(
        f"the host key of {login.host} is vouched for by a certificate authority "
        "(@cert-authority), which the paramiko transport does not check",
        hint=f"use --transport openssh; or let a person compare the host's own key: "
        f"run hpc-serve connect {login} on a terminal and answer yes",
    )


def not_found(login: Login) -> Unreachable:
    """Return the error for an unknown host name; offline, every host is unknown."""
    return Unreachable(
        f"cannot find a host named {login.host}",
        hint="check the spelling and that this machine is online",
    )


def unreachable(login: Login, reason: str) -> Unreachable:
    """Return the error for a host without an SSH server, or without any answer."""
    return Unreachable(
        f"cannot reach {login.host}: {reason}",
        hint="check that this machine is online, and whether the site wants a VPN",
    )


def too_slow(login: Login, timeout_s: float) -> Unreachable:
    """Return the error for an unfinished remote command, whose connection was given up."""
    return Unreachable(
        f"a command on {login.host} did not end within {timeout_s:g} s",
        hint="its file system may be slow just now: try again",
    )


def port_refused(port: int, *, holder: str | None = None) -> PortTaken:
    """Return the error for a local port, with the reason found by trying the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            reason = "could not be opened"
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "is already in use" if taken else f"cannot be opened: {error.strerror}"
    by = f" by {holder}" if holder else ""
    return PortTaken(
        f"port {port} of this machine {reason}{by}",
        hint="choose another with --port, or let --port 0 find a free one",
    )


_SAID: tuple[tuple[re.Pattern[str], Callable[[Login], TunnelError]], ...] = (
    (re.compile(r"REVOKED HOST KEY|marked as revoked|revoked by file"), revoked_key),
    (re.compile(r"HOST IDENTIFICATION HAS CHANGED|Host key for .* has changed"), changed_key),
    (re.compile(r"Host key verification failed|No \S+ host key is known"), unknown_host),
    (re.compile(r"Permission denied \(|Too many authentication failures"), denied),
    (re.compile(r"Could not resolve hostname"), not_found),
)


def from_ssh(login: Login, log: str) -> TunnelError:
    """Return the error for a log of the ssh program."""
    for pattern, failure in _SAID:
        if pattern.search(log):
            return failure(login)
    told = [line.strip() for line in log.splitlines() if not _NOISE.search(line)]
    last = told[-1] if told else "the connection was closed"
    return unreachable(login, re.sub(r"^ssh: connect to host \S+ port \d+: ", "", last))
