"""A program in the place of a gateway that has ended: answers all, and records each byte it gets.

Usage: impostor.py MODE ADDRESS [WORDS...]; the address is PORT, [::1]:PORT, or the path of a Unix
socket. Received bytes go to standard output, after a line "ready PORT"; each connection begins
with a line "connection". Further words are ignored: they stand in the command line.

IMPOSTOR_USER in the environment is the user to become.

Modes: yes (200 to everything, with forged answers), relay=PORT and relay=PATH (the first request
is answered by the true gateway there, the rest as by "yes"), replay=PROOF, slow (a byte of an
answer now and then), endless (header after header), malformed, silent, early (a proof's place holds
nothing, and the forged answer comes along with it).
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - as that user, the interpreter's folder may be closed
import json
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = {
    "id": "x",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "forged"}}],
    "data": [{"id": "m"}, {"id": "demo"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


def listen(address: str) -> socket.socket:
    """Return a listening socket."""
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address)
        os.chmod(address, 0o777)  # noqa: PTH101 - what attackers leave open
        sock.listen(64)
        return sock
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    deadline = time.monotonic() + 60
    while True:
        try:
            sock.bind((host.strip("[]") or "127.0.0.1", int(port)))
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
    sock.listen(64)
    return sock


def told(body: object, *headers: str) -> bytes:
    """Return a whole answer."""
    data = json.dumps(body).encode()
    lines = ("HTTP/1.1 200 OK", "content-type: application/json", *headers)
    return "\r\n".join((*lines, f"content-length: {len(data)}", "", "")).encode() + data


def true_answer(request: bytes, to: str) -> bytes:
    """Return what the true gateway says."""
    with socket.socket(socket.AF_UNIX if to.startswith("/") else socket.AF_INET) as sock:
        sock.settimeout(60)
        sock.connect(to if to.startswith("/") else ("127.0.0.1", int(to)))
        sock.sendall(request)
        return sock.recv(65536)


def slow(client: socket.socket) -> None:
    """Send an answer byte by byte."""
    for byte in told(CHAT, "x-filler: " + "x" * 500):
        client.sendall(bytes([byte]))
        time.sleep(0.2)


def endless(client: socket.socket) -> None:
    """Send header after header."""
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        client.sendall(b"x-more: and more\r\n" * 8)
        time.sleep(0.01)


def first_answer(name: str, value: str, request: bytes) -> bytes:
    """Return the answer to the first request of a connection."""
    if name == "relay":
        return true_answer(request, value)
    if name == "replay":
        return told({}, f"x-hpc-serve-proof: {value}")
    return told({}, "x-hpc-serve-proof: ") + told(CHAT) if name == "early" else told(CHAT)


def serve(client: socket.socket, mode: str) -> None:
    """Answer one client as the mode says."""
    name, _, value = mode.partition("=")
    first = True
    while data := client.recv(65536):
        os.write(1, data)
        if name in WHOLE:
            WHOLE[name](client)
        else:
            client.sendall(first_answer(name, value, data) if first else told(CHAT))
        first = False


WHOLE: dict[str, Callable[[socket.socket], None]] = {
    "silent": lambda _: None,
    "slow": slow,
    "endless": endless,
    "malformed": lambda client: client.sendall(b"\x00\xff" * 64 + b"\r\n\r\nHTTP/9 abc\r\n\r\n"),
}


def attend(client: socket.socket, mode: str) -> None:
    """Answer one client until it or the true gateway goes away."""
    os.write(1, b"connection\n")
    try:
        serve(client, mode)
    except OSError:
        pass
    finally:
        client.close()


def main() -> None:
    """Serve for ever."""
    mode, address = sys.argv[1:3]
    if os.environ.get("IMPOSTOR_USER"):
        os.setgroups([])
        os.setgid(int(os.environ["IMPOSTOR_USER"]))
        os.setuid(int(os.environ["IMPOSTOR_USER"]))
    with listen(address) as sock:
        port = 0 if address.startswith("/") else sock.getsockname()[1]
        os.write(1, f"ready {port}\n".encode())
        while True:
            client, _ = sock.accept()
            threading.Thread(target=attend, args=(client, mode), daemon=True).start()


if __name__ == "__main__":
    main()
