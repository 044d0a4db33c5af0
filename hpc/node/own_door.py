"""Requests of a node to its own replica, on the gateway's way: port, proof, sidecar, engine.

An engine that runs and a sidecar that runs do not make a replica that answers: the engine's socket
may be gone with a cleaned folder, or the engine may fail at its first request.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import socket
import time
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING

from hpc import peer_proof

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

TICK_S = 0.25
LATE_S = 0.001
CHECK_EVERY_S = 10.0
CHECK_PATIENCE_S = 5.0
AGAIN_S = 2.0
"""Seconds to the next check after a failed one, as clients get errors meanwhile."""
CLOSED_CHECKS = 5
"""Failed checks in a row after which a replica counts as unreachable: 10 s, since a burst of
connections may fill the engine's backlog for a moment."""
SILENT_CHECKS = 20
"""Unanswered checks in a row after which an engine counts as hung: 300 s, as a busy engine may be
silent for long. Checks are counted, not seconds: a suspended job does not lose its engine."""
FIRST_REQUESTS: tuple[tuple[str, Mapping[str, object]], ...] = (
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "Hello"}),
)
"""Requests of one token, in order."""
OTHER_KIND = frozenset({400, 404, 405, 415, 422, 501})
"""Answers of a model that takes no such request, but maybe another one."""
ERROR_SHOWN = 300


class DoorError(Exception):
    """A replica did not answer its own node; the text is the cause."""


class SilentDoorError(DoorError):
    """A replica took a request and did not answer in time."""


@dataclass(frozen=True, slots=True)
class OwnDoor:
    """The address of a replica on its own node, and the means to prove oneself there.

    Attributes:
        host: address that the sidecar listens at.
        port: the sidecar's port.
        secret: secret that both sides of a connection prove.
        certificate: PEM of the sidecar's certificate, or None without TLS.
    """

    host: str
    port: int
    secret: str = field(repr=False)
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class DoorAnswer:
    """Status and body of an answer."""

    status: int
    body: bytes

    @property
    def told(self) -> str:
        """The message of an error in OpenAI's form, else the status alone."""
        try:
            text = str(json.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            text = ""
        return " ".join((text or f"status {self.status}").split())[:ERROR_SHOWN]


def ask(
    door: OwnDoor,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    deadline: float,
    tick: Callable[[], None],
) -> DoorAnswer:
    """Return the answer to a request on a new connection that has proved itself.

    Args:
        door: the replica.
        method: GET or POST.
        path: path of the request.
        body: JSON of the request.
        deadline: time of ``time.monotonic`` at which the wait ends.
        tick: called several times a second meanwhile; may raise to end the wait.

    Raises:
        DoorError: no connection, no proof, or no whole answer.
        SilentDoorError: no answer in time.
    """
    lines = (f"{method} {path} HTTP/1.1", "Host: replica", "Connection: close")
    entity = ("Content-Type: application/json", f"Content-Length: {len(body)}") if body else ()
    request = "\r\n".join((*lines, *entity, "", "")).encode() + body
    wait = _Wait(deadline, tick)
    try:
        with closing(_proved(door, wait)) as sock:
            sock.sendall(request)
            seen = b""
            while data := wait.receive(sock):
                seen += data
        answer = HTTPResponse(_Bytes(seen))  # type: ignore[arg-type]
        answer.begin()
        return DoorAnswer(answer.status, answer.read())
    except DoorError:
        raise
    except (OSError, peer_proof.NotProved, HTTPException) as error:
        raise DoorError(str(error) or type(error).__name__) from error


def knock(door: OwnDoor, *, deadline: float) -> None:
    """Open a connection on which both sides prove themselves, and close the connection.

    Args:
        door: a replica, also of another machine.
        deadline: time of ``time.monotonic`` at which the wait ends.

    Raises:
        DoorError: no connection, or no proof.
    """
    try:
        _proved(door, _Wait(deadline, lambda: None)).close()
    except (OSError, peer_proof.NotProved) as error:
        raise DoorError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the plain reason of a failed connection."""
    text = error.strerror if isinstance(error, OSError) else None
    return (text or str(error) or type(error).__name__).lower()


def _proved(door: OwnDoor, wait: _Wait) -> socket.socket:
    """Return a connection on which both sides have proved themselves."""
    timeout = max(TICK_S, min(CHECK_PATIENCE_S, wait.deadline - time.monotonic()))
    sock = socket.create_connection((door.host, door.port), timeout=timeout)
    try:
        if door.certificate is not None:
            sock = peer_proof.pinned(door.certificate).wrap_socket(sock)
        handshake = peer_proof.GatewayHandshake(door.secret, *sock.getpeername()[:2])
        sock.sendall(handshake.request)
        while not handshake.done:
            if said := handshake.feed(wait.receive(sock)):
                sock.sendall(said)
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True)
class _Wait:
    """A wait for bytes that looks around meanwhile."""

    deadline: float
    tick: Callable[[], None]

    def receive(self, sock: socket.socket) -> bytes:
        """Return the next bytes; b"" is the end."""
        while True:
            # After the deadline only bytes that are there already: a drip of bytes holds nobody.
            left_s = self.deadline - time.monotonic()
            sock.settimeout(min(TICK_S, max(LATE_S, left_s)))
            try:
                return sock.recv(65536)
            except TimeoutError:
                if time.monotonic() > self.deadline:
                    raise SilentDoorError("no answer in time") from None
                self.tick()


def _check_socket(path: str) -> None:
    """Refuse an engine's socket that takes no connection.

    The sidecar may hold a kept connection, which answers although no further one can be opened.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CHECK_PATIENCE_S)
        code = probe.connect_ex(path)
    if code not in (0, errno.EAGAIN):  # EAGAIN: the backlog is full for a moment
        raise DoorError(f"the engine's socket: {os.strerror(code).lower()}")


class _Bytes:
    """Received bytes in the place of a socket, for ``http.client``."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        """Return the bytes as a file."""
        del mode
        return io.BytesIO(self._data)


def warm_up(door: OwnDoor, model: str, *, deadline: float, tick: Callable[[], None]) -> None:
    """Have an engine answer one request of one token, which may compile for a minute.

    Args:
        door: the replica.
        model: the model's name at the engine.
        deadline: time of ``time.monotonic`` at which the wait ends.
        tick: called several times a second meanwhile; may raise to end the wait.

    Raises:
        DoorError: the request failed; names the cause.
    """
    for path, fields in FIRST_REQUESTS:
        body = json.dumps({"model": model, **fields}).encode()
        answer = ask(door, "POST", path, body, deadline=deadline, tick=tick)
        if answer.status == HTTPStatus.OK:
            return
        if answer.status not in OTHER_KIND:
            raise DoorError(answer.told)
        log.info("%s of the engine: %s", path, answer.told)


class DoorWatch:
    """The checks of a ready replica, by its engine's readiness probe.

    Args:
        door: the replica.
        path: path of the probe.
        engine: path of the engine's Unix socket.
    """

    def __init__(self, door: OwnDoor, path: str, engine: str) -> None:
        self._door, self._path, self._engine = door, path, engine
        self._next = time.monotonic() + CHECK_EVERY_S
        self._closed = self._silent = 0

    def look(self, tick: Callable[[], None]) -> None:
        """Ask the replica if a check is due.

        Args:
            tick: called several times a second meanwhile; may raise to end the wait.

        Raises:
            DoorError: the replica has been unreachable for several checks in a row.
        """
        if time.monotonic() < self._next:
            return
        told = self._fault(tick)
        self._next = time.monotonic() + (AGAIN_S if self._closed else CHECK_EVERY_S)
        if told and (self._closed >= CLOSED_CHECKS or self._silent >= SILENT_CHECKS):
            raise DoorError(told)

    def _fault(self, tick: Callable[[], None]) -> str | None:
        """Ask once, count, and return the fault, or None."""
        limit = time.monotonic() + CHECK_PATIENCE_S
        try:
            _check_socket(self._engine)
            answer = ask(self._door, "GET", self._path, deadline=limit, tick=tick)
        except SilentDoorError as error:
            self._closed, self._silent = 0, self._silent + 1
            return str(error)
        except DoorError as error:
            self._closed, self._silent = self._closed + 1, 0
            return str(error)
        if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._closed = self._silent = 0
            return None
        self._closed, self._silent = self._closed + 1, 0
        return answer.told
