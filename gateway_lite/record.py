"""What is noted of one request while it is served; holds no key and no word of a prompt."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from dataclasses import dataclass, field

from gateway_lite import usage

CLIENT_GONE = "client_gone"
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
    kind, _, token = authorization.partition(b" ")
    return token.strip() if kind.lower() == b"bearer" else b""


@dataclass(slots=True, eq=False)
class Record:
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
        reads: pieces in which the answer's body came.
        overhead_s: seconds that passed in the gateway before the replica was asked.
        tail: the last bytes of that answer.
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
    began: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    complete: bool = False
    reads: int = 0
    overhead_s: float = 0.0
    tail: usage.Tail = field(default_factory=usage.Tail)

    def sent(self, body: bytes, *, more: bool) -> None:
        """Note bytes of the answer that have gone out."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self.tail.add(body)
        self.complete = not more

    def failed(self, status: int, error: str) -> None:
        """Note an error of ours, also one in mid-stream."""
        self.status, self.error = status, error

    def left(self) -> None:
        """Note that the client left, which is no loss where it had all it wanted."""
        if not self.complete and not usage.ended(self.tail.read()):
            self.failed(LEFT, CLIENT_GONE)

    def used(self) -> usage.Usage | None:
        """Return what a replica reports of its work, also where that was cut short."""
        return usage.read(self.tail.read()) if self.replica else None
