"""Servers that play the engine: a real uvicorn that does as the request says, and raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import uvicorn

from gateway_lite.upstream.handshake import ReplicaHandshake
from hpc import peer_proof
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway_lite.http.listeners import Tls

SECRETS: dict[int, str] = {}
"""Secrets of the replicas that are played here, by port; what listens at no such port proves none.
"""
PROBES = {("GET", "/v1/models"), ("GET", "/props")}
"""What the gateway itself asks engines, beside its clients' requests."""
FRAME = 'data: {{"choices":[{{"index":0,"delta":{{"content":"t{}"}}}}]}}\n\n'


def frame(number: int) -> bytes:
    """Return one event of a stream."""
    return FRAME.format(number).encode()


@dataclass
class Seen:
    """One request as the engine saw it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    left_at: float | None = None
    began_at: float = 0.0
    worked_until: float = 0.0


@dataclass
class Door:
    """The sidecar's part of the proof, in front of an engine of the tests."""

    proofs: dict[Any, ReplicaHandshake] = field(default_factory=dict)

    def is_open(self, scope: Any) -> bool:
        """Return whether a connection may ask, as it may wherever no secret is held."""
        if scope["server"][1] not in SECRETS:
            return True
        known = self.proofs.get(scope["client"])
        return (
            known is not None
            and known.state == "done"
            and scope["path"] != peer_proof.HANDSHAKE_PATH
        )

    async def shake(self, scope: Any, send: Any) -> None:
        """Answer one message of the handshake, as a sidecar does."""
        headers, (host, port) = dict(scope["headers"]), scope["server"]
        lines = None
        if scope["path"] == peer_proof.HANDSHAKE_PATH:
            if peer_proof.CHALLENGE.encode() in headers:
                self.proofs[scope["client"]] = ReplicaHandshake(SECRETS[port].encode(), host, port)
            lines = self.proofs[scope["client"]].answer(headers)
        told = [line.split(b": ") for line in (lines or b"").split(b"\r\n") if line]
        start = {"type": "http.response.start", "status": 401 if lines is None else 200}
        await send({**start, "headers": [*told, (b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@dataclass
class Engine:
    """An engine that obeys the fields of a request.

    ``wait`` sleeps before the head, ``prefill`` between head and first frame, ``gap`` between
    frames, ``n`` counts the frames, ``hold`` stops after the first frame until ``go`` is set,
    ``die`` breaks the connection after so many frames, ``status`` answers with that, ``usage`` is
    reported at the end, ``linger`` sleeps between the last word and the end. The gateway's
    questions for ``models`` and ``props`` are answered, and seen with ``sees_probes`` only.
    """

    name: str = "engine"
    models: list[dict[str, Any]] = field(default_factory=list)
    props: dict[str, Any] = field(default_factory=dict)
    sees_probes: bool = False
    secret: str | None = None
    status: int | None = None
    seen: list[Seen] = field(default_factory=list)
    door: Door = field(default_factory=Door)
    go: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if not self.door.is_open(scope):
            return await self.door.shake(scope, send)
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        if (scope["method"], scope["path"]) in PROBES and not self.sees_probes:
            return await self._listed(scope["path"], headers, send)
        request = Seen(scope["path"], headers, _read(body), began_at=time.monotonic())
        self._note(lambda: self.seen.append(request))
        work = asyncio.ensure_future(self._answer(request, send))
        gone = asyncio.ensure_future(receive())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            self._note(lambda: setattr(request, "left_at", time.monotonic()))
            work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)
        if work.done() and not work.cancelled():
            work.result()
        return None

    async def _listed(self, path: str, headers: dict[str, str], send: Any) -> None:
        refused = self.secret and headers.get("authorization") != f"Bearer {self.secret}"
        status = 401 if refused else 503 if self.status == 503 else 200
        told: dict[str, Any] = {"object": "list", "data": self.models}
        if path == "/props":
            status, told = (200, self.props) if self.props else (404, {})
        content = json.dumps(told).encode()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, request: Seen, send: Any) -> None:
        ask = request.body
        await asyncio.sleep(ask.get("wait", 0))
        status = self.status or ask.get("status") or 200
        if self.secret and request.headers.get("authorization") != f"Bearer {self.secret}":
            status = 401
        if not ask.get("stream") or status != 200:
            request.worked_until = time.monotonic()
            return await self._whole(status, ask, send)
        head = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await asyncio.sleep(ask.get("prefill", 0))
        for number in range(ask.get("n", 3)):
            if ask.get("die") == number:
                raise BrokenEngineError
            part = {"type": "http.response.body", "body": frame(number), "more_body": True}
            await send(part)
            if ask.get("hold") and number == 0:
                await asyncio.to_thread(self.go.wait, 60)
            await asyncio.sleep(ask.get("gap", 0))
        request.worked_until = time.monotonic()
        done = b"data: [DONE]\n\n"
        if "usage" in ask:
            report = json.dumps({"choices": [], "usage": ask["usage"]})
            done = f"data: {report}\n\n".encode() + done
        if "linger" in ask:
            await send({"type": "http.response.body", "body": done, "more_body": True})
            await asyncio.sleep(ask["linger"])
            done = b""
        await send({"type": "http.response.body", "body": done})
        return None

    async def _whole(self, status: int, ask: dict[str, Any], send: Any) -> None:
        answer = {"object": "chat.completion", "engine": self.name, "choices": []}
        if "usage" in ask:
            answer["usage"] = ask["usage"]
        content = json.dumps(answer).encode()
        head = [(b"content-type", b"application/json"), (b"retry-after", b"7")]
        length = (b"content-length", str(len(content)).encode())
        start = {"type": "http.response.start", "status": status, "headers": [*head, length]}
        await send(start)
        if "die" in ask:
            await send({"type": "http.response.body", "body": content[:5], "more_body": True})
            raise BrokenEngineError
        await send({"type": "http.response.body", "body": content})

    def _note(self, change: Callable[[], object]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout: float = PATIENCE_S) -> bool:
        """Wait until something holds of what was seen."""
        with self.changed:
            return self.changed.wait_for(condition, timeout)

    def wait_seen(self, count: int) -> bool:
        """Wait until so many requests have come."""
        return self.wait_for(lambda: len(self.seen) >= count)

    def wait_left(self, timeout: float = PATIENCE_S) -> Seen:
        """Wait until the client of the last request has left."""
        assert self.wait_for(lambda: bool(self.seen) and self.seen[-1].left_at is not None, timeout)
        return self.seen[-1]


def _read(body: bytes) -> dict[str, Any]:
    """Return what a request asks for; what is no JSON asks for a 400, as engines answer."""
    try:
        read: dict[str, Any] = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return {"status": 400}
    return read


class BrokenEngineError(Exception):
    """The engine fails on purpose; uvicorn then breaks the connection."""


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def serve(engine: Engine, unix: Path | None = None, tls: Tls | None = None) -> Iterator[str]:
    """Serve an engine in a thread; yields its address, or the path of its socket."""
    if unix is None:
        sock = socket.create_server(("127.0.0.1", 0))
        address = f"http{'s' if tls else ''}://127.0.0.1:{sock.getsockname()[1]}"
        SECRETS.pop(sock.getsockname()[1], None)  # of an earlier engine at this port
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(unix))
        address = str(unix)
    config = uvicorn.Config(
        engine,
        log_config=None,
        log_level="critical",
        lifespan="off",
        timeout_graceful_shutdown=1,
        ssl_certfile=None if tls is None else tls.cert,
        ssl_keyfile=None if tls is None else tls.key,
    )
    server = _Quiet(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        sock.close()


class Raw:
    """A server on raw sockets, for what no decent one does.

    Args:
        script: called with each connection, in a thread of its own.
    """

    def __init__(self, script: Callable[[socket.socket, int], None]) -> None:
        self._script = script
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._counting = threading.Lock()
        self.connections = 0
        self.port: int = self._sock.getsockname()[1]
        SECRETS.pop(self.port, None)
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self.port in SECRETS:
                place = connection.getsockname()[:2]
                shake(connection, ReplicaHandshake(SECRETS[self.port].encode(), *place))
            if is_probe(connection):
                return
            with self._counting:
                self.connections += 1
                number = self.connections
            self._script(connection, number)

    def close(self) -> None:
        """Stop listening, and close what is open."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(PATIENCE_S)
        for connection in self._open:
            connection.close()


def is_probe(connection: socket.socket) -> bool:
    """Answer the gateway's own question for models on a new connection; return whether it was one.

    Nothing is read of any other request.
    """
    if not connection.recv(14, socket.MSG_PEEK).startswith(b"GET /v1/models"):
        return False
    read_request(connection)
    send_json(connection, b'{"data": []}')
    return True


def shake(connection: socket.socket, own: ReplicaHandshake) -> None:
    """Answer a gateway's handshake, as a sidecar does."""
    while own.state in ("challenge", "proof"):
        lines = read_request(connection).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        told = own.answer(dict(line.split(b": ") for line in lines)) or b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n%bcontent-length: 0\r\n\r\n" % told)


def read_request(connection: socket.socket) -> bytes:
    """Read one request with a Content-Length; empty when the client closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    lines = [line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:]]
    length = int(dict(lines).get(b"content-length", b"0"))
    while len(body) < length:
        body += connection.recv(65536)
    return data


def send_json(connection: socket.socket, body: bytes = b'{"raw":1}') -> None:
    """Answer one request and keep the connection."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    connection.sendall(head % len(body) + body)
