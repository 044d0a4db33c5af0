"""A client with a key wants the whole gateway; the others are served, and memory stays bounded."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gateway_lite.request.head_checks import BYTES_PER_TOKEN
from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.conftest import engine, gateway, home
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import (
    BODY,
    PATIENCE_S,
    run_gateway,
    save_replica,
    save_service,
    wait_until,
)
from tests.contract.gateway.wire import Wire, rss_mib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

__all__ = ["engine", "gateway", "home"]

MIB = 1024 * 1024
HUGE = 7 * MIB
CHUNK = b"%x\r\n%b\r\n" % (65536, b" " * 65536)
BEYOND = 100 * BYTES_PER_TOKEN // 65536 + 4
"""Chunks of a body that no prompt of 100 tokens can have, pictures included."""
MANY = 100_000
COMPLEX = {
    "/api/chat": b'{"model":"m","messages":[' + b'{"role":"u"},' * MANY + b"{}]}",
    "/v1/chat/completions": b'{"model":"m","messages":[' + b"{}," * MANY + b"{}]}",
    "/v1/completions": b'{"model":"m","prompt":[' + b"1," * (5 * MANY) + b"1]}",
    "/v1/embeddings": b'{"model":"m","input":[' + b'"",' * (4 * MANY) + b'""]}',
    "/v1/responses": b'{"model":"m"' + b"".join(b',"k%d":1' % n for n in range(MANY)) + b"}",
}


def with_key(front: Running, home: Path, **limits: int) -> Running:
    """Return the gateway as a client with another key sees it, once the key is in force."""
    key, _ = key_store.add(directory.keys_path(home), "limited", limits=KeyLimits(**limits))
    other = type(front)(front.process, front.port, key, front.log)
    with other.client() as client:
        wait_until(lambda: client.get("/v1/models").status_code == 200)
    return other


def test_a_prompt_that_is_too_long_is_refused_before_it_is_sent(
    gateway: Running, home: Path, engine: Engine
) -> None:
    with Wire(with_key(gateway, home, max_prompt_tokens=100)) as wire:
        wire.send(wire.head(f"content-length: {HUGE}"))
        answer = wire.answer()

    assert answer is not None
    assert (answer.status, answer.code()) == (413, "request_too_large")
    assert not engine.seen


def test_a_prompt_in_chunks_is_refused_as_soon_as_it_is_too_long(
    gateway: Running, home: Path
) -> None:
    with Wire(with_key(gateway, home, max_prompt_tokens=100)) as wire:
        wire.send(wire.head("transfer-encoding: chunked") + CHUNK * BEYOND)
        answer = wire.answer()

    assert answer is not None
    assert answer.code() == "request_too_large"


def test_a_key_without_requests_left_is_refused_before_the_body(
    gateway: Running, home: Path
) -> None:
    front = with_key(gateway, home, rpm=1)
    assert front.post({}).status_code == 200
    with Wire(front) as wire:
        wire.send(wire.head(f"content-length: {HUGE}"))
        answer = wire.answer()

    assert answer is not None
    assert answer.code() == "rate_limit_exceeded"


def test_requests_that_are_refused_by_their_content_count(gateway: Running, home: Path) -> None:
    front = with_key(gateway, home, rpm=2)
    with front.client() as client:
        said = [client.post("/v1/chat/completions", content=b"{") for _ in range(3)]

    assert [one.status_code for one in said] == [400, 400, 429]
    assert front.post({}).status_code == 429


def test_a_default_body_has_8_mib(gateway: Running) -> None:
    with Wire(gateway) as wire:
        wire.send(wire.head(f"content-length: {8 * MIB + 1}"))
        answer = wire.answer()

    assert answer is not None
    assert answer.code() == "request_too_large"


@pytest.mark.parametrize("path", COMPLEX)
def test_a_body_of_countless_parts_is_not_decoded(
    gateway: Running, engine: Engine, path: str
) -> None:
    before = rss_mib(gateway.process.pid)
    with gateway.client() as client:
        answer = client.post(path, content=COMPLEX[path])

    assert answer.status_code == 400
    assert "more than" in answer.text
    assert not engine.seen
    # Half of what the smallest of these bodies takes once it is decoded.
    assert rss_mib(gateway.process.pid) < before + 15


def test_text_that_looks_like_json_is_no_countless_part(gateway: Running, engine: Engine) -> None:
    text = '{"a": [1, 2, {"b": "c"}]},\\' * 20_000
    answer = gateway.post({"messages": [{"role": "user", "content": text}]})

    assert answer.status_code == 200
    assert engine.seen[0].body["messages"][0]["content"] == text


def test_unfinished_bodies_of_one_key_leave_room_for_another(gateway: Running, home: Path) -> None:
    other = with_key(gateway, home, rpm=100)
    before = rss_mib(gateway.process.pid)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(gateway)) for _ in range(12)]
        for wire in wires:
            wire.send(wire.head(f"content-length: {HUGE + 1}") + b" " * HUGE)
        # 64 MiB in all, of which one key has half: four bodies of 7 MiB.
        refused = [wire for wire in wires if answered(wire)]
        assert len(refused) >= 8
        for wire in refused:
            answer = wire.answer()
            assert answer is None or answer.code() == "too_busy"
        assert rss_mib(gateway.process.pid) < before + 64
        big = {"messages": [{"role": "user", "content": "a" * HUGE}]}
        assert other.post(big).status_code == 200


def answered(wire: Wire) -> bool:
    """Tell whether an answer waits, after a moment for it to come."""
    wire.sock.settimeout(1)
    try:
        return bool(wire.sock.recv(1, socket.MSG_PEEK)) or True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        wire.sock.settimeout(PATIENCE_S)


def test_others_are_served_while_a_text_is_redacted(home: Path, engine: Engine) -> None:
    """1 MiB that holds an address at every fourth byte, by its looks, takes seconds to search."""
    policy = {"redact": {"kinds": ["email", "iban", "card", "phone", "ip", "key"]}}
    done = threading.Event()
    said = []

    def abuse(front: Running) -> None:
        text = "999.999.999.999." * (MIB // 16)
        said.append(front.post({"messages": [{"role": "user", "content": text}]}))
        done.set()

    with serve(engine) as url, run_gateway(home, {"m": url}, policy=policy) as front:
        thread = threading.Thread(target=abuse, args=(front,))
        thread.start()
        served = 0
        while not done.is_set():
            served += front.post({}).status_code == 200
        thread.join()

    # It would be one or two if the text were searched in the event loop.
    assert served > 10
    # Not searched to its end, so not passed on.
    assert said[0].status_code == 400
    assert "redacted" in said[0].text
    assert all(one.body["messages"][0]["content"] == "hi" for one in engine.seen)


@contextlib.contextmanager
def one_slot(home: Path, engine: Engine, *more: str) -> Iterator[Running]:
    """Run a gateway over an engine that serves one request at a time."""
    with serve(engine) as url:
        save_service(home)
        save_replica(home, url, slots=1)
        with run_gateway(home, None, *more) as front:
            yield front


def test_who_does_not_read_does_not_hold_a_slot(home: Path, engine: Engine, tmp_path: Path) -> None:
    """The answer of 0.8 MB is more than the system buffers for a Unix socket, about 0.2 MB."""
    path = str(tmp_path / "gateway.sock")
    with one_slot(home, engine, "--unix", path) as front, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        body = json.dumps({**BODY, "stream": True, "n": 12_000}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {front.key}"
        sock.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        assert engine.wait_seen(1)

        assert front.post({}).status_code == 200
        assert len(engine.seen) == 2


def test_a_key_that_fills_the_queue_lets_another_in(home: Path, engine: Engine) -> None:
    with one_slot(home, engine) as front:
        other = with_key(front, home, rpm=1000)
        codes: dict[str, list[int]] = {"one": [], "other": []}

        def ask(name: str, who: Running, **more: Any) -> threading.Thread:
            def run() -> None:
                codes[name].append(who.post(more).status_code)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        threads = [ask("one", front, stream=True, hold=True)]
        assert engine.wait_seen(1)
        threads += [ask("one", front) for _ in range(70)]
        wait_until(lambda: codes["one"].count(429) == 6)
        threads.append(ask("other", other))
        # One of those that waited has made room.
        wait_until(lambda: codes["one"].count(429) == 7 or codes["other"])
        engine.go.set()
        for one in threads:
            one.join(PATIENCE_S)

    assert codes["other"] == [200]
    assert (codes["one"].count(429), codes["one"].count(200)) == (7, 64)


def test_files_and_batches_count_as_requests(gateway: Running, home: Path) -> None:
    front = with_key(gateway, home, rpm=3)
    with front.client() as client:
        paths = ("/v1/files", "/v1/batches", "/v1/batches/batch_0", "/v1/files", "/v1/batches")
        said = [client.get(path).status_code for path in paths]

    assert said == [200, 200, 404, 429, 429]


def upload(client: Any, content: bytes = b"{}") -> Any:
    return client.post("/v1/files", files={"file": ("a", content)}, data={"purpose": "batch"})


def test_files_and_open_batches_of_a_key_are_bounded(home: Path, engine: Engine) -> None:
    policy = {"batch_files": 2, "open_batches": 1}
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, policy=policy) as front,
        front.client() as client,
    ):
        file = upload(client).json()["id"]
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions"}
        asked["completion_window"] = "24h"
        made = [client.post("/v1/batches", json=asked) for _ in range(2)]
        files = [upload(client) for _ in range(2)]

    assert [one.status_code for one in made] == [200, 429]
    assert made[1].json()["error"]["code"] == "too_many_batches"
    assert files[-1].json()["error"]["code"] == "too_many_files"


def test_uploads_at_once_share_one_quota(home: Path, engine: Engine) -> None:
    """Each announces 1 MiB of the 16 that a key may store, and sends nothing of it."""
    policy = {"batch_file_mib": 1}
    kind = "content-type: multipart/form-data; boundary=b"
    more = ("--workers", "2")
    with (
        serve(engine) as url,
        run_gateway(home, {"m": url}, *more, policy=policy) as front,
        contextlib.ExitStack() as stack,
    ):
        wires = [stack.enter_context(Wire(front)) for _ in range(18)]
        for wire in wires:
            wire.send(wire.head(f"content-length: {MIB}", kind, path="/v1/files"))
        drafts = home / "files"
        wait_until(lambda: len(list(drafts.glob("*/.draft-*"))) == 16)
        refused = [wire for wire in wires if answered(wire)]
        assert len(refused) == 2
        for wire in refused:
            answer = wire.answer()
            assert answer is not None
            assert answer.code() == "storage_full"


def test_a_form_of_empty_parts_is_refused_early(gateway: Running, home: Path) -> None:
    kind = "content-type: multipart/form-data; boundary=b"
    with Wire(gateway) as wire:
        wire.send(wire.head(f"content-length: {HUGE}", kind, path="/v1/files"))
        # A part of every form, and 20 more: far less than was announced.
        wire.send(b"--b\r\n\r\n\r\n" * 21)
        answer = wire.answer()

    assert answer is not None
    assert b"more than 16 parts" in answer.body
