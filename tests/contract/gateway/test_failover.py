"""What happens when a replica fails: another try where that is safe, a clear error where not."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract.gateway.engines import Engine, Raw, frame, read_request, send_json, serve
from tests.contract.gateway.programs import (
    run_gateway,
    run_over,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DRAWS = 30
"""Requests after which a replica that is drawn by chance was surely drawn."""


@contextmanager
def dead_address() -> Iterator[str]:
    """Yield an address where nobody listens, and nobody can begin to meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def saying(answer: bytes) -> Callable[[socket.socket, int], None]:
    """Return a server that says so much after the status, and hangs up."""

    def script(connection: socket.socket, number: int) -> None:
        del number
        if read_request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + answer)

    return script


def test_a_dead_replica_costs_nobody_an_answer(home: Path) -> None:
    with ExitStack() as stack:
        dead = [stack.enter_context(dead_address()) for _ in range(3)]
        url = stack.enter_context(serve(Engine()))
        gateway = stack.enter_context(run_over(home, [*dead, url]))
        answers = [gateway.post({"stream": n % 2 == 0}) for n in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-gateway-backend"] for answer in answers} == {"m/3"}


def test_no_living_replica_is_one_clear_error(home: Path) -> None:
    with dead_address() as url, run_gateway(home, {"m": url}) as gateway:
        answer = gateway.post({})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_error"
    assert int(answer.headers["retry-after"]) > 0
    assert "replica m cannot be reached" in answer.json()["error"]["message"]


def test_an_engine_that_closes_on_reuse_costs_nobody_an_answer(home: Path) -> None:
    """The keep-alive race: the connection ends just as the next request is sent on it."""

    def script(connection: socket.socket, number: int) -> None:
        del number
        if read_request(connection):
            send_json(connection)
            read_request(connection)

    engine = Raw(script)
    with run_gateway(home, {"m": engine.url}) as gateway:
        codes = [gateway.post({}).status_code for _ in range(20)]
    engine.close()
    assert codes == [200] * 20


def test_a_request_is_replayed_once_only(home: Path) -> None:
    asked = []

    def script(connection: socket.socket, number: int) -> None:
        if read_request(connection):
            asked.append(number)

    engine = Raw(script)
    with run_gateway(home, {"m": engine.url}) as gateway:
        answer = gateway.post({})
    engine.close()
    assert answer.status_code == 502
    assert answer.headers["x-should-retry"] == "false"
    assert len(asked) == 2


def test_a_connection_idle_for_four_seconds_is_not_used_again(home: Path) -> None:
    """Engines on uvicorn close theirs after five."""

    def script(connection: socket.socket, number: int) -> None:
        del number
        while read_request(connection):
            send_json(connection)

    engine = Raw(script)
    with run_gateway(home, {"m": engine.url}) as gateway:

        def used_again() -> bool:
            before = engine.connections
            assert gateway.post({}).status_code == 200
            return 0 < before == engine.connections

        wait_until(used_again)
        before = engine.connections
        time.sleep(4)
        assert gateway.post({}).status_code == 200
        assert engine.connections == before + 1
    engine.close()


def test_a_replica_that_is_not_up_yet_sends_the_request_elsewhere(home: Path) -> None:
    up, down = Engine("up"), Engine("down", status=503)
    with serve(up) as one, serve(down) as two, run_over(home, [two, one]) as gateway:
        answers = [gateway.post({}) for _ in range(10)]
    assert {answer.json()["engine"] for answer in answers} == {"up"}


def test_with_no_other_replica_the_engines_503_passes_through(home: Path) -> None:
    with serve(Engine(status=503)) as url, run_gateway(home, {"m": url}) as gateway:
        answer = gateway.post({})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


def test_an_answer_cut_short_is_asked_for_again(home: Path) -> None:
    """A JSON answer is complete before its first byte goes out, so that it can be replayed."""
    cut = Raw(saying(b"content-type: application/json\r\ncontent-length: 99\r\n\r\n{"))
    with serve(Engine()) as url, run_over(home, [cut.url, url]) as gateway:
        answers = [gateway.post({"messages": []}) for _ in range(DRAWS)]
        asked = cut.connections
    cut.close()
    assert {answer.status_code for answer in answers} == {200}
    assert asked > 0


def test_an_engine_that_dies_in_prefill_is_replaced(home: Path) -> None:
    """Its head came, but no byte of content: nothing was said to the client yet."""
    head = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    cut = Raw(saying(head))
    with serve(Engine()) as url, run_over(home, [cut.url, url]) as gateway:
        answers = [gateway.post({"stream": True, "messages": []}) for _ in range(DRAWS)]
        asked = cut.connections
    cut.close()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content[: len(frame(0))] for answer in answers} == {frame(0)}
    assert asked > 0


def test_after_the_first_byte_nothing_is_replayed(home: Path) -> None:
    engine = Engine()
    with serve(engine) as url, run_over(home, [url, url]) as gateway:
        answer = gateway.post({"stream": True, "n": 5, "die": 3})
    assert len(engine.seen) == 1
    assert [answer.content.count(frame(n)) for n in range(4)] == [1, 1, 1, 0]


def test_a_silent_engine_is_given_up(home: Path) -> None:
    engine = Engine()
    more = ("--upstream-timeout", "0.5")
    with serve(engine) as url, run_gateway(home, {"m": url}, *more) as gateway:
        answer = gateway.post({"wait": 20})
        stream = gateway.post({"stream": True, "gap": 20})
        assert engine.wait_for(lambda: all(seen.left_at for seen in engine.seen))
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert b"stays silent in mid-stream" in stream.content
    assert stream.content.endswith(b"data: [DONE]\n\n")


def test_two_replicas_share_the_work(home: Path) -> None:
    one, two = Engine("one"), Engine("two")
    with serve(one) as a, serve(two) as b, run_over(home, [a, b]) as gateway:
        # Nothing that one of them may have seen before, and none ends before all have begun.
        asked = {"stream": True, "hold": True, "messages": []}
        threads = [threading.Thread(target=gateway.post, args=(asked,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(one.seen) + len(two.seen) == len(threads))
        one.go.set()
        two.go.set()
        for thread in threads:
            thread.join()
    assert (len(one.seen), len(two.seen)) == (5, 5)


PLAIN_HEAD = b"content-type: application/json\r\ncontent-length: 99\r\n\r\n{"
STREAM_HEAD = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("stream", "head"), [(False, PLAIN_HEAD), (True, STREAM_HEAD)])
def test_an_answer_after_a_failover_has_each_header_once(
    home: Path, head: bytes, *, stream: bool
) -> None:
    """The first replica breaks off behind its head; browsers refuse two allowed origins."""
    cut, policy = Raw(saying(head)), {"cors": ["https://lab.example"], "aliases": {"gpt": "m"}}
    with ExitStack() as stack:
        url = stack.enter_context(serve(Engine()))
        save_service(home, replicas=2)
        for number, address in enumerate((cut.url, url)):
            save_replica(home, address, number=number)
        gateway = stack.enter_context(run_gateway(home, None, policy=policy))
        client = stack.enter_context(gateway.client())
        answers = [
            client.post(
                "/v1/chat/completions",
                json={"model": "gpt", "messages": [], "stream": stream},
                headers={"origin": "https://lab.example"},
            )
            for _ in range(DRAWS)
        ]
        asked = cut.connections
    cut.close()
    assert asked > 0
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        names = [name for name, _ in answer.headers.multi_items()]
        assert sorted(names) == sorted(set(names))
        assert answer.headers["access-control-allow-origin"] == "https://lab.example"
        assert answer.headers["x-gateway-model"] == "m"
