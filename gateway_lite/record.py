"""What is noted of one request while it is served; holds no key and no word of a prompt."""

from __future__ import annotations

import itertools
import re
import secrets
import time

import msgspec

from gateway_lite import usage

CLIENT_GONE = "client_gone"
FAILED = 400
LEFT = 499
"""Status of a request whose client left before it was answered, as nginx writes it."""
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_NAMES = itertools.count(1)
_PREFIX = secrets.token_hex(8)


def request_id(given: bytes | None) -> str:
    """Return the client's own name for a request where it is sane, else a new one."""
    if given is not None and SANE_ID.fullmatch(given):
        return given.decode()
    return f"{_PREFIX}{next(_NAMES):08x}"


def bearer(authorization: bytes) -> bytes:
    """Return the token of an Authorization header; empty where there is none."""
    if authorization.startswith(b"Bearer "):
        return authorization[7:].strip()
    kind, _, token = authorization.partition(b" ")
    return token.strip() if kind.lower() == b"bearer" else b""


class Record(msgspec.Struct, eq=False, gc=False):
    """One request.

    Attributes:
        name: its id.
        path: what it asks for, as a URL.
        key: name of the key that it showed; empty where it showed none in force.
        model: what it asks for, in the client's own words; empty where it asks for none.
        replica: who worked on it last; empty where nobody did.
        status: HTTP status; what came later counts more than what was sent.
        error: the code of our error, or that the client left.
        queue_s: seconds that it waited for a place.
        attempts: replicas that it was sent to.
        began: clock at its first byte.
        first_at: clock when the first byte of the answer's body had gone out.
        complete: its answer went out to the last byte.
        cache: "hit" or "miss"; empty where the answer was not to be kept.
        limited: the limit of the key that refused it; empty where none did.
        reads: pieces in which the answer's body came.
        overhead_s: seconds that passed in the gateway before the replica was asked.
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
    _tail: usage.Tail | None = None
    _whole: bytes | None = None
    _used: usage.Usage | None = None
    _read: bool = False

    @property
    def tail(self) -> usage.Tail:
        """The last bytes of the answer."""
        if self._tail is None:
            self._tail = usage.Tail()
        return self._tail

    def sent(self, body: bytes, *, more: bool) -> None:
        """Note bytes of the answer that have gone out."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self.tail.add(body)
        self.complete = not more

    def whole(self, body: bytes) -> None:
        """Note an answer that goes out at once."""
        self.reads = 1
        self.complete = True
        self._whole = body

    def failed(self, status: int, error: str) -> None:
        """Note an error of ours, also one in mid-stream."""
        self.status, self.error = status, error

    def left(self) -> None:
        """Note that the client left, which is no loss where it had all it wanted."""
        if not self.complete and not usage.ended(self.tail.read()):
            self.failed(LEFT, CLIENT_GONE)

    def used(self) -> usage.Usage | None:
        """Return what a replica reports of its work, also where that was cut short; at its end."""
        if not self._read:
            self._read = True
            if self.replica:
                whole = self._whole
                tail = self._tail
                if whole is not None:
                    self._used = usage.of_whole(whole)
                elif tail is not None:
                    self._used = usage.read(tail.read())
        return self._used

    def charged(self, estimate: int) -> int | None:
        """Return the tokens that count against limits; None where nothing was used.

        Args:
            estimate: what counts where an answer does not report any.
        """
        used = self.used()
        if used is not None:
            return used.prompt + used.completion
        answered = self.first_at is not None and (self.status < FAILED or self.status == LEFT)
        return estimate if answered else None
