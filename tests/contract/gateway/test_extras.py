"""What the gateway does beside passing on, as users meet it: over a socket, with a real gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import ollama
import pytest

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.engines import BrokenEngineError, Engine, Seen, serve
from tests.contract.gateway.programs import (
    Running,
    run_gateway,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HI = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class Chatty(Engine):
    """An engine that says what a test wants, as engines say it."""

    words = "hello you"
    breaks = False

    async def _answer(self, request: Seen, send: Callable[..., Any]) -> None:
        kind, body = b"application/json", self._whole_answer()
        if request.body.get("stream"):
            kind, body = b"text/event-stream", self._events(request.body)
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if self.breaks:
            part = {"type": "http.response.body", "body": body[:200], "more_body": True}
            await send(part)
            raise BrokenEngineError
        await send({"type": "http.response.body", "body": body})

    def _whole_answer(self) -> bytes:
        message = {"role": "assistant", "content": self.words}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return json.dumps({"choices": [choice], "usage": USAGE}).encode()

    def _events(self, asked: dict[str, Any]) -> bytes:
        deltas: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": word}}]} for word in self.words
        ]
        deltas.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            deltas.append({"choices": [], "usage": USAGE})
        frames = [f"data: {json.dumps(delta)}\n\n" for delta in deltas]
        return "".join([*frames, "data: [DONE]\n\n"]).encode()


def said(content: bytes) -> str:
    """Return the text of an event stream."""
    events = [line[6:] for line in content.decode().splitlines() if line.startswith("data: {")]
    found = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in found)


def served(home: Path, key: str) -> list[dict[str, Any]]:
    """Return what the access log says of a key's requests that were served."""
    files = home.glob("gateways/*/access.log")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line["key"] == key and line["status"] == 200]


def test_an_ollama_client_works_unchanged(home: Path) -> None:
    policy = {"aliases": {"gpt": "m", "tagged:latest": "m", "gone": "none"}}
    engine = Chatty()
    with serve(engine) as url, run_gateway(home, {"m": url}, policy=policy) as gateway:
        headers = {"authorization": f"Bearer {gateway.key}"}
        client = ollama.Client(host=gateway.url, headers=headers, trust_env=False)
        whole = client.chat(model="m", messages=HI)
        assert whole.message.content == "hello you"
        assert (whole.done, whole.eval_count, whole.prompt_eval_count) == (True, 3, 7)
        for name in ("m:latest", "gpt", "gpt:latest", "tagged:latest"):
            parts = list(client.chat(model=name, messages=HI, stream=True))
            assert "".join(part.message.content or "" for part in parts) == "hello you"
            assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
            assert parts[0].model == name
            assert client.show(name).capabilities == ["completion", "tools"]
            pulled = [one.status for one in client.pull(name, stream=True)]
            assert (pulled[0], pulled[-1]) == ("pulling manifest", "success")
        assert client.pull("m").status == "success"
        for models in (client.list().models, client.ps().models):
            assert sorted(str(one.model) for one in models) == ["gpt", "m", "tagged:latest"]
        see_refusals(client)
        engine.breaks = True
        cut = refusal(lambda: list(client.chat(model="m", messages=HI, stream=True)))
        assert "in mid-stream" in cut[1]
        engine.breaks = False
        client.close()  # type: ignore[no-untyped-call]
        see_ollama_by_hand(gateway)


def see_refusals(client: ollama.Client) -> None:
    """See that each refusal is in the words and form of Ollama's client."""
    unknown = (404, "the model 'unknown' does not exist")
    assert refusal(lambda: client.chat(model="unknown", messages=HI)) == unknown
    assert refusal(lambda: client.show("unknown")) == unknown
    assert refusal(lambda: client.generate("unknown", keep_alive=0)) == unknown
    assert client.generate("m").done_reason == "load"
    for pull in (
        lambda: client.pull("unknown"),
        lambda: list(client.pull("unknown:latest", stream=True)),
    ):
        status, told = refusal(pull)
        assert (status, "is not served here, and none is pulled" in told) == (404, True)
    assert refusal(lambda: client.delete("m")) == (404, "the path /api/delete is not served")


def refusal(ask: Callable[[], object]) -> tuple[int, str]:
    """Return status and text by which a client is refused."""
    with pytest.raises(ollama.ResponseError) as caught:
        ask()
    return caught.value.status_code, caught.value.error


def see_ollama_by_hand(gateway: Running) -> None:
    """See what programs do beside the official client: no content type, and refusals."""
    form = {"content-type": "application/x-www-form-urlencoded", "user-agent": "curl/8.5.0"}
    ask = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": false}'
    with gateway.client() as client:
        for path in ("/api/chat", "/v1/chat/completions"):
            answer = client.post(path, content=ask, headers=form)
            assert answer.status_code == 200, answer.text
        assert client.request("GET", "/api/chat").json() == {"error": "/api/chat does not take GET"}
        for path, body in (("/api/chat", b"{"), ("/api/show", b"{"), ("/api/embed", b"[]")):
            answer = client.post(path, content=body)
            assert answer.status_code == 400
            assert type(answer.json()["error"]) is str
    bare = httpx.Client(base_url=gateway.url, trust_env=False)
    with bare:
        assert bare.get("/").text == "Ollama is running"
        assert bare.head("/").status_code == 200
        for path in ("/api/tags", "/api/version", "/api/nothing"):
            answer = bare.get(path)
            assert (answer.status_code, type(answer.json()["error"])) == (401, str)
        answer = bare.post("/api/chat", content=ask)
        assert (answer.status_code, type(answer.json()["error"])) == (401, str)


def test_prompts_are_redacted_before_the_engine_sees_them(home: Path) -> None:
    engine = Chatty()
    engine.words = "write to eve@example.org or bob@example.org"
    policy = {"redact": {"kinds": ["email"], "answers": True}}
    asked = {"messages": [{"role": "user", "content": "I am ann@example.org"}]}
    with serve(engine) as url, run_gateway(home, {"m": url}, policy=policy) as gateway:
        whole = gateway.post(asked)
        stream = gateway.post({**asked, "stream": True})
    prompts = {seen.body["messages"][0]["content"] for seen in engine.seen}
    assert prompts == {"I am [EMAIL]"}
    hidden = "write to [EMAIL] or [EMAIL]"
    assert whole.json()["choices"][0]["message"]["content"] == hidden
    assert said(stream.content) == hidden
    assert stream.content.endswith(b"data: [DONE]\n\n")


def test_a_sure_answer_is_given_again_to_the_same_key_only(home: Path) -> None:
    engine = Chatty()
    save_service(home)
    with serve(engine) as url:
        save_replica(home, url)
        with run_gateway(home, policy={"cache": {}}) as gateway:
            wait_until(lambda: gateway.post({}).status_code == 200)
            before = len(engine.seen)
            other = Running(
                gateway.process,
                gateway.port,
                key_store.add(directory.keys_path(home), "other")[0],
                gateway.log,
            )
            wait_until(lambda: other.post({}).status_code == 200)
            before = len(engine.seen)
            sure = {"temperature": 0}
            answers = [gateway.post(sure) for _ in range(3)]
            streams = [gateway.post({**sure, "stream": True}) for _ in range(2)]
            unsure = [gateway.post({}) for _ in range(2)]
            others = other.post(sure)
    assert [a.headers.get("x-gateway-cache") for a in answers] == ["miss", "hit", "hit"]
    assert len({answer.content for answer in answers}) == 1
    assert [a.headers.get("x-gateway-cache") for a in streams] == ["miss", "hit"]
    assert {said(stream.content) for stream in streams} == {"hello you"}
    assert [a.headers.get("x-gateway-cache") for a in (*unsure, others)] == [None, None, "miss"]
    assert len(engine.seen) - before == 5


def test_the_tokens_of_a_stream_count_though_the_client_did_not_ask(home: Path) -> None:
    engine = Chatty()
    with serve(engine) as url, run_gateway(home, {"m": url}) as gateway:
        limits = KeyLimits(total_tokens=1_000_000)
        key, _ = key_store.add(directory.keys_path(home), "counted", limits=limits)
        counted = Running(gateway.process, gateway.port, key, gateway.log)
        wait_until(lambda: counted.post({}).status_code == 200)
        stream = counted.post({"stream": True})
        asked = counted.post({"stream": True, "stream_options": {"include_usage": True}})
        wait_until(lambda: len(served(home, "counted")) == 3)
        lines = served(home, "counted")[1:]
    assert b"usage" not in stream.content
    assert b'"usage"' in asked.content
    assert [(line["prompt_tokens"], line["completion_tokens"]) for line in lines] == [(7, 3)] * 2


def test_a_web_page_may_ask_where_it_was_let_in(home: Path) -> None:
    page = {"origin": "https://lab.example"}
    asks = {**page, "access-control-request-method": "POST"}
    policy = {"cors": ["https://lab.example"]}
    with (
        serve(Chatty()) as url,
        run_gateway(home, {"m": url}, policy=policy) as gateway,
        gateway.client() as client,
    ):
        chat = "/v1/chat/completions"
        may = client.options(chat, headers=asks)
        may_not = client.options(chat, headers={**asks, "origin": "https://evil.example"})
        answers = [
            client.post(chat, json={"model": "m", "messages": []}, headers=page),
            client.post(chat, json={"model": "none"}, headers=page),
            client.get("/v1/models", headers=page),
        ]
        other = client.get("/v1/models", headers={"origin": "https://evil.example"})
    allow = "access-control-allow-origin"
    assert (may.status_code, may.headers[allow]) == (200, "https://lab.example")
    assert may_not.status_code == 400
    assert [answer.status_code for answer in answers] == [200, 404, 200]
    assert {answer.headers[allow] for answer in answers} == {"https://lab.example"}
    assert allow not in other.headers


def test_without_the_setting_no_page_may_ask(gateway: Running) -> None:
    with gateway.client() as client:
        answer = client.get("/v1/models", headers={"origin": "https://lab.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_a_trace_goes_on_to_the_engine(gateway: Running, engine: Engine) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with gateway.client() as client:
        body = {"model": "m", "messages": []}
        client.post("/v1/chat/completions", json=body, headers={"traceparent": trace})
    assert engine.seen[0].headers["traceparent"] == trace
