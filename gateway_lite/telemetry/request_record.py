"""The record of a request during service; holds no key and no word of a prompt."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from gateway_lite.wire import token_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENT_GONE = "client_gone"
LEFT = 499
"""Status of a request whose client left before the answer, as nginx logs it."""
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_NAMES = itertools.count(1)
_PREFIX = secrets.token_hex(8)


def request_id(given: bytes | None) -> str:
    """Return the client's own request id if well-formed, else a new id."""
    if given is not None and SANE_ID.fullmatch(given):
        return given.decode()
    return f"{_PREFIX}{next(_NAMES):08x}"


def bearer(authorization: bytes) -> bytes:
    """Return the token of an Authorization header; empty without a bearer token."""
    if authorization.startswith(b"Bearer "):
        return authorization[7:].strip()
    kind, _, token = authorization.partition(b" ")
    return token.strip() if kind.lower() == b"bearer" else b""


def shown_key(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key that a request shows; empty without any.

    A bearer token comes first, as OpenAI's clients send the key; Anthropic's send ``x-api-key`` and
    Azure's ``api-key``.

    Args:
        headers: headers by lower-case name.
    """
    token = bearer(headers.get(b"authorization", b""))
    return token or (headers.get(b"x-api-key") or headers.get(b"api-key", b"")).strip()


class RequestRecord(msgspec.Struct, eq=False, gc=False):
    """A request and the outcome.

    Attributes:
        name: id of the request.
        path: path of its URL.
        key: name of the valid key in the request; empty without a valid key.
        model: requested model in the client's own words; empty if none was requested.
        replica: the last replica that worked on the request; empty without any.
        status: HTTP status; a later failure replaces the status that was sent.
        error: code of the gateway's error, or CLIENT_GONE.
        queue_s: seconds in the queue for a slot.
        attempts: number of replicas that the request was sent to.
        began: clock value at its first byte.
        first_at: clock value after the first byte of the answer's body was sent.
        complete: True once the answer was sent to the last byte.
        cache: "hit" or "miss"; empty for an uncacheable answer.
        limited: the key's limit that refused the request; empty without a refusal.
        reads: number of pieces in which the answer's body arrived.
        overhead_s: seconds in the gateway before the request was sent to the replica.
    """

    name: str
    path: str = ""
    key: str = ""
    model: str = ""
    replica: str = ""
    status: int = 0
    error: str | None = None
    queue_s: float = 0.0
    attempts: int = 0
    began: float = msgspec.field(default_factory=time.perf_counter)
    first_at: float | None = None
    complete: bool = False
    cache: str = ""
    limited: str = ""
    reads: int = 0
    overhead_s: float = 0.0
    _tail: token_usage.Tail | None = None
    _whole: bytes | None = None
    _used: token_usage.Usage | None = None
    _read: bool = False

    @property
    def tail(self) -> token_usage.Tail:
        """The last bytes of the answer."""
        if self._tail is None:
            self._tail = token_usage.Tail()
        return self._tail

    def sent(self, body: bytes, *, more: bool) -> None:
        """Record sent bytes of the answer."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self.tail.add(body)
        self.complete = not more

    def whole(self, body: bytes) -> None:
        """Record an answer sent in a single piece."""
        self.reads = 1
        self.complete = True
        self._whole = body

    def failed(self, status: int, error: str) -> None:
        """Record an error of the gateway, also in mid-stream."""
        self.status, self.error = status, error

    def left(self) -> None:
        """Record that the client left, unless the answer was complete or the stream had ended."""
        if not self.complete and not token_usage.ended(self.tail.read()):
            self.failed(LEFT, CLIENT_GONE)

    def used(self) -> token_usage.Usage | None:
        """Return the usage that the replica reported, also for a cut answer; called at the end."""
        if not self._read:
            self._read = True
            if self.replica:
                # Parsed once, at the end: nothing is searched while a stream runs.
                whole = self._whole
                tail = self._tail
                if whole is not None:
                    self._used = token_usage.of_whole(whole)
                elif tail is not None:
                    self._used = token_usage.read(tail.read())
        return self._used
