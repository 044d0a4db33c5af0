"""A client on a bare socket, for requests that no decent client sends."""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.contract.gateway.programs import BODY, PATIENCE_S

if TYPE_CHECKING:
    from tests.contract.gateway.programs import Running

CHAT = "/v1/chat/completions"
HI = json.dumps(BODY).encode()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def code(self) -> str:
        """Return the code of an error in OpenAI's form, which it has to have."""
        assert self.headers["content-type"] == "application/json", self
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        code: str = error["code"]
        return code


class Wire:
    """One connection; a stranger's has the wrong key, and proves nothing to a sidecar."""

    def __init__(
        self, front: Running, timeout: float = PATIENCE_S, *, stranger: bool = False
    ) -> None:
        self._key = f"x{front.key}" if stranger else front.key
        address = ("127.0.0.1", front.port)
        self.sock = (
            socket.create_connection(address, timeout) if stranger else front.connect(timeout)
        )
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Wire:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self.sock.close()

    def head(
        self, *lines: str, method: str = "POST", path: str = CHAT, version: str = "HTTP/1.1"
    ) -> bytes:
        """Return the head of a request with our key."""
        own = [f"{method} {path} {version}", "host: gateway", f"authorization: Bearer {self._key}"]
        return ("\r\n".join([*own, *lines]) + "\r\n\r\n").encode("latin-1")

    def request(self, body: bytes = HI, *lines: str, **more: str) -> bytes:
        """Return a request with a body."""
        return self.head(f"content-length: {len(body)}", *lines, **more) + body

    def send(self, data: bytes) -> None:
        """Send bytes; what the other side does not take any more is lost."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, TimeoutError):
            return

    def pour(self, piece: bytes, times: int) -> None:
        """Send the same bytes again and again, until an answer is there."""
        self.sock.settimeout(0.02)
        for _ in range(times):
            try:
                self.sock.send(piece)
            except TimeoutError:
                pass
            except ConnectionError:
                break
            if self._answer_waits():
                break
        self.sock.settimeout(PATIENCE_S)

    def _answer_waits(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])

    def answer(self, *, bodiless: bool = False) -> Answer | None:
        """Return the next answer; None where the connection was closed instead.

        Args:
            bodiless: it answers HEAD, or is a 1xx.
        """
        try:
            line = self._file.readline()
            if not line:
                return None
            status = int(line.split()[1])
            headers = self._headers()
            return Answer(status, headers, b"" if bodiless else self._body(headers))
        except ConnectionError:
            return None

    def _headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in iter(self._file.readline, b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            found[name.lower()] = value.strip()
        return found

    def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return self._file.read()
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            assert self._file.readline() == b"\r\n"
        assert self._file.readline() == b"\r\n"
        return body

    def closed(self) -> bool:
        """Tell whether nothing comes any more, waiting for the end."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def rss_mib(process: int) -> float:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def steady_rss_mib(process: int, seconds: float = PATIENCE_S) -> float:
    """Return the memory once it does not change any more."""
    end = time.monotonic() + seconds
    before = rss_mib(process)
    while time.monotonic() < end:
        time.sleep(0.2)
        now = rss_mib(process)
        if abs(now - before) < 0.2:
            return now
        before = now
    return before


def unharmed(front: Running, since: int = 0) -> None:
    """Make sure that others are served, and that nothing went wrong inside.

    Args:
        front: who serves them.
        since: characters that its log had before.
    """
    answer: Any = front.post({})
    assert answer.status_code == 200, answer.text
    log = front.log.read_text()[since:]
    assert "Traceback" not in log, log[-4000:]
