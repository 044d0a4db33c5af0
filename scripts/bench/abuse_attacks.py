"""Attacks of clients on a gateway, and the probe beside them; each runs in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
SIZES = (60 * MIB, 8 * MIB - 4096, MIB, 250_000)
"""Bytes of hostile bodies: beyond the limit, just within, and small enough to look harmless."""
LIMIT_S = 60.0
PROBE_S = 0.005
"""Pause between two requests of the probe."""
CHAT = "/v1/chat/completions"
OK = 200
BOUNDARY = "b"


def head(facts: dict[str, Any], key: str, path: str, *lines: str, method: str = "POST") -> bytes:
    """Return the head of a request; no authorization without a key."""
    own = [f"{method} {path} HTTP/1.1", "host: gateway"]
    if key:
        own.append(f"authorization: Bearer {facts['keys'][key]}")
    return ("\r\n".join([*own, *lines]) + "\r\n\r\n").encode()


def dial(facts: dict[str, Any]) -> socket.socket:
    """Return a new connection."""
    return socket.create_connection(("127.0.0.1", facts["port"]), timeout=LIMIT_S)


def ask(facts: dict[str, Any], model: str, key: str = "probe") -> int:
    """Ask once, and return the status; 0 without an answer."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", facts["port"], 60)) as one:
            return _ask(one, facts, model, key)
    except (OSError, http.client.HTTPException):
        return 0


def _ask(one: http.client.HTTPConnection, facts: dict[str, Any], model: str, key: str) -> int:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    one.request("POST", CHAT, body, {"authorization": f"Bearer {facts['keys'][key]}"})
    answer = one.getresponse()
    answer.read()
    return answer.status


def probe(facts: dict[str, Any], model: str, seconds: float) -> None:
    """Ask again and again on new connections, and print how long each answer took."""
    took, refused, asked = [], 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or not asked:
        began = time.perf_counter()
        status = ask(facts, model)
        asked += 1
        if status == OK:
            took.append((time.perf_counter() - began) * 1000)
        else:
            refused += 1
        time.sleep(PROBE_S)
    print(json.dumps({"ms": took, "refused": refused / asked}))


def post(facts: dict[str, Any], key: str, path: str, body: bytes, *lines: str) -> None:
    """Send a request, and read its answer; a refusal may come before the body is sent."""
    with contextlib.suppress(OSError), dial(facts) as sock:
        sock.sendall(head(facts, key, path, f"content-length: {len(body)}", *lines))
        with contextlib.suppress(OSError):
            sock.sendall(body)
        sock.recv(4096)


def flood(facts: dict[str, Any], path: str, make: Callable[[int], bytes], *keys: str) -> None:
    """Send bodies of all sizes again and again, four at a time."""
    bodies = [make(size) for size in SIZES]

    def work(key: str, first: int) -> None:
        for number in range(first, 10**9):
            post(facts, key, path, bodies[number % len(bodies)])

    _together([partial(work, key, n) for n in range(4) for key in keys or ("open",)])


def _together(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def filled(start: bytes, piece: bytes, end: bytes) -> Callable[[int], bytes]:
    """Return a maker of bodies: a start, as many pieces as fit, and an end."""
    return lambda size: start + piece * ((size - len(start) - len(end)) // len(piece)) + end


def with_keys(model: bytes) -> Callable[[int], bytes]:
    """Return a maker of bodies with as many different fields as fit."""

    def make(size: int) -> bytes:
        fields = b"".join(b',"k%d":1' % number for number in range(size // 12))
        return b'{"model":"%b","temperature":0,"messages":[]%b}' % (model, fields)

    return make


OLLAMA = filled(b'{"model":"m","messages":[', b'{"role":"u","content":""},', b'{"role":"u"}]}')
MESSAGES = filled(b'{"model":"m","messages":[', b'{"role":"u"},', b"{}]}")
EMPTY = filled(b'{"model":"m","messages":[', b"{},", b"{}]}")
TOKEN_IDS = filled(b'{"model":"m","prompt":[', b"17,", b"1]}")
TEXTS = filled(b'{"model":"m","input":[', b'"",', b'""]}')


def words(text: bytes) -> Callable[[int], bytes]:
    """Return a maker of chats with one text again and again."""
    return filled(b'{"model":"m","messages":[{"role":"user","content":"', text, b'"}]}')


def unfinished(facts: dict[str, Any]) -> None:
    """Send all but the last byte of many bodies, and hold them."""
    body = b" " * (SIZES[1] - 1)
    held = []
    for _ in range(100):
        sock = dial(facts)
        held.append(sock)
        sock.settimeout(2)
        with contextlib.suppress(OSError):
            sock.sendall(head(facts, "open", CHAT, f"content-length: {len(body) + 1}") + body)
    time.sleep(LIMIT_S)


def endless(facts: dict[str, Any]) -> None:
    """Send chunks without an end, from 16 connections at once."""
    chunk = b"%x\r\n%b\r\n" % (65536, b" " * 65536)

    def pour() -> None:
        while True:
            with contextlib.suppress(OSError), dial(facts) as sock:
                sock.sendall(head(facts, "open", CHAT, "transfer-encoding: chunked"))
                while True:
                    sock.sendall(chunk)

    _together([pour] * 16)


def queued(facts: dict[str, Any]) -> None:
    """Let large complete requests wait for a slot."""
    body = words(b"hello ")(SIZES[1]).replace(b'"m"', b'"one"', 1)
    _together([lambda: post(facts, "open", CHAT, body)] * 64)
    time.sleep(LIMIT_S)


def idle(facts: dict[str, Any]) -> None:
    """Hold many connections that say nothing, and open new ones for those that are closed."""
    held: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            held.append(dial(facts))
        if len(held) > 1100:
            held.pop(0).close()
            time.sleep(0.001)


def reconnect(facts: dict[str, Any]) -> None:
    """Connect and leave as fast as possible."""
    while True:
        with contextlib.suppress(OSError), dial(facts):
            pass


def drops(facts: dict[str, Any]) -> None:
    """Send heads byte by byte on many connections."""
    text = head(facts, "", CHAT) * 2
    held = []
    for _ in range(400):
        with contextlib.suppress(OSError):
            held.append(dial(facts))
    for byte in text * 100:
        for one in held:
            with contextlib.suppress(OSError):
                one.send(bytes([byte]))


def pipelined(facts: dict[str, Any], request: bytes) -> None:
    """Send as many requests as fit without reading an answer, again and again."""
    block = request * (256 * 1024 // len(request))

    def pour() -> None:
        while True:
            with contextlib.suppress(OSError), dial(facts) as sock:
                sock.settimeout(1)
                while True:
                    sock.sendall(block)

    _together([pour] * 8)


def slow_readers(facts: dict[str, Any]) -> None:
    """Hold the only slot by reading an answer slowly."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", facts["port"]))
        body = b'{"model":"one","stream":true,"messages":[]}'
        sock.sendall(head(facts, "open", CHAT, f"content-length: {len(body)}") + body)
        while sock.recv(200):
            time.sleep(1)
    time.sleep(LIMIT_S)


def queue(facts: dict[str, Any]) -> None:
    """Fill the queue for the only slot."""

    def again() -> None:
        while True:
            ask(facts, "one", "open")

    _together([again] * 80)


def batches(facts: dict[str, Any]) -> None:
    """Create batches of an unknown file, and list, as fast as possible."""
    body = b'{"input_file_id":"file-0","endpoint":"/v1/chat/completions","completion_window":"24h"}'

    def again() -> None:
        while True:
            post(facts, "few", "/v1/batches", body)

    _together([again] * 4)


def uploads(facts: dict[str, Any]) -> None:
    """Upload many files of empty parts."""
    part = b"--b\r\n\r\n\r\n"
    body = part * (20 * MIB // len(part))
    kind = f"content-type: multipart/form-data; boundary={BOUNDARY}"

    def again() -> None:
        while True:
            post(facts, "open", "/v1/files", body, kind)

    _together([again] * 4)


HEALTH = b"GET /healthz HTTP/1.1\r\nhost: g\r\n\r\n"
NO_KEY = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 2\r\n\r\n{}"
ATTACKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "nothing": lambda _: time.sleep(LIMIT_S),
    "ollama messages": lambda facts: flood(facts, "/api/chat", OLLAMA, "tiny", "open"),
    "chat messages": lambda facts: flood(facts, CHAT, MESSAGES, "tiny", "open"),
    "empty messages": lambda facts: flood(facts, CHAT, EMPTY),
    "fields by alias": lambda facts: flood(facts, CHAT, with_keys(b"alias"), "tiny", "open"),
    "fields for cache": lambda facts: flood(facts, CHAT, with_keys(b"m")),
    "token ids": lambda facts: flood(facts, "/v1/completions", TOKEN_IDS),
    "embedding texts": lambda facts: flood(facts, "/v1/embeddings", TEXTS),
    "long prose": lambda facts: flood(facts, CHAT, words(b"one two, three. ")),
    "program text": lambda facts: flood(facts, CHAT, words(rb"f(a[0], {\"b\": 1});\n")),
    "redact abc:": lambda facts: flood(facts, CHAT, words(b"abc:")),
    "redact IBANs": lambda facts: flood(facts, CHAT, words(b"DE00 ")),
    "redact cards": lambda facts: flood(facts, CHAT, words(b"4111111111111112 ")),
    "redact addresses": lambda facts: flood(facts, CHAT, words(b"999.999.999.999.")),
    "unfinished bodies": unfinished,
    "endless bodies": endless,
    "queued bodies": queued,
    "idle connections": idle,
    "reconnections": reconnect,
    "single bytes": drops,
    "pipelined health": lambda facts: pipelined(facts, HEALTH),
    "pipelined chats": lambda facts: pipelined(facts, NO_KEY),
    "slow reader": slow_readers,
    "full queue": queue,
    "batches": batches,
    "empty parts": uploads,
}
CONDUCT = {
    "slow reader": "delay_ms=1&frames=8000&interval_ms=0",
    "full queue": "delay_ms=1",
    "queued bodies": "delay_ms=20",
}
AT_SLOTS = ("slow reader", "full queue")
"""Attacks on a slot: the probe asks for the same model."""


def main(argv: list[str]) -> None:
    """Run the probe or an attack."""
    name, facts = argv[0], json.loads(argv[1])
    if name == "probe":
        probe(facts, argv[2], float(argv[3]))
    else:
        ATTACKS[name](facts)


if __name__ == "__main__":
    main(sys.argv[1:])
