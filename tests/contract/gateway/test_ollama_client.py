"""The official client of Ollama against our translation, over a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import ollama
import pytest
from aiohttp import web
from openai.types import CompletionCreateParams, EmbeddingCreateParams
from openai.types.chat import CompletionCreateParams as ChatParams
from pydantic import TypeAdapter

from gateway_lite.api.ollama import Listed, ps, show, tags, version
from gateway_lite.errors import ApiError
from gateway_lite.features.ollama.answers import failed
from gateway_lite.features.ollama.requests import CHAT, TEXT, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
MODELS = [Listed("small", 1e9, "r1", "vllm", 4096), Listed("e", capabilities=("embedding",))]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "adds",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


class Engine:
    """Answers in OpenAI's form with what a test says, and checks what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.message: dict[str, Any] = {"role": "assistant", "content": "hello you"}
        self.end = "stop"
        self.failure: tuple[int, bytes] | None = None
        self.cut = False

    def answer(self, path: str, body: dict[str, Any]) -> bytes:
        self.asked.append((path, body))
        kinds: dict[str, Any] = {CHAT: ChatParams, TEXT: CompletionCreateParams}
        TypeAdapter(kinds.get(path, EmbeddingCreateParams)).validate_python(body)
        if path == "/v1/embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            rows = [{"index": i, "embedding": [float(i), 0.5]} for i in range(len(texts))]
            return json.dumps({"data": rows[::-1], "usage": {"prompt_tokens": 7}}).encode()
        if body.get("stream"):
            return self.stream(path)
        form = {"message": self.message} if path == CHAT else {"text": self.message["content"]}
        choice = {"index": 0, "finish_reason": self.end, **form}
        return json.dumps({"choices": [choice], "usage": USAGE}).encode()

    def stream(self, path: str) -> bytes:
        words = self.message["content"] or ""
        parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        parts += [{"content": words[i : i + 3]} for i in range(0, len(words), 3)]
        for i, call in enumerate(self.message.get("tool_calls", ())):
            text = call["function"]["arguments"]
            named = {**call["function"], "arguments": ""}
            parts.append({"tool_calls": [{**call, "index": i, "function": named}]})
            for at in range(0, len(text), 4):
                piece = {"index": i, "function": {"arguments": text[at : at + 4]}}
                parts.append({"tool_calls": [piece]})
        if self.message.get("reasoning_content"):
            parts.insert(1, {"reasoning_content": self.message["reasoning_content"]})
        chunks: list[dict[str, Any]] = [
            {"index": 0, "delta": p} if path == CHAT else {"index": 0, "text": p.get("content", "")}
            for p in parts
        ]
        events: list[dict[str, Any]] = [{"choices": [chunk], "usage": None} for chunk in chunks]
        if self.cut:
            events.append({"error": {"message": "the engine died"}})
        else:
            events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": self.end}]})
            events.append({"choices": [], "usage": USAGE})
        lines = [b"data: " + json.dumps(e).encode() + b"\n\n" for e in events]
        return b"".join([*lines, b"data: [DONE]\n\n"])


async def handle(engine: Engine, request: web.Request) -> web.StreamResponse:
    path = request.path
    lists = {"/api/tags": tags, "/api/ps": ps}
    if path in lists:
        return web.Response(body=lists[path](MODELS), content_type="application/json")
    try:
        if path == "/api/show":
            return web.Response(body=show(await request.read(), MODELS))
        made = translate(path, await request.read())
    except ApiError as error:
        return web.Response(status=error.status, body=failed(error.body()))
    if made.answer is not None:
        return web.Response(body=made.answer)
    body = engine.answer(made.path, json.loads(made.body))
    if engine.failure is not None:
        status, said = engine.failure
        return web.Response(status=status, body=failed(said))
    answer = web.StreamResponse(headers={"content-type": made.content_type.decode()})
    await answer.prepare(request)
    for at in range(0, len(body), 7):
        await answer.write(made.editor.feed(body[at : at + 7]))
    await answer.write(made.editor.finish())
    return answer


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Engine, ollama.Client]]:
    """A server that translates, and the official client of it."""
    engine = Engine()
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", partial(handle, engine))
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    host, port = runner.addresses[0][:2]
    with ollama.Client(f"http://{host}:{port}", trust_env=False) as client:
        yield engine, client
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def client(server: tuple[Engine, ollama.Client]) -> ollama.Client:
    server[0].__init__()  # type: ignore[misc]
    return server[1]


@pytest.fixture
def engine(server: tuple[Engine, ollama.Client], client: ollama.Client) -> Engine:
    return server[0]


ASK: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


def test_a_chat_in_one_piece(client: ollama.Client, engine: Engine) -> None:
    options = {"num_predict": 5, "temperature": 0.0, "num_ctx": 9, "stop": ["x"], "seed": 1}
    answer = client.chat("small:latest", ASK, options=options, keep_alive=3, think=False)

    assert (answer.message.role, answer.message.content) == ("assistant", "hello you")
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", "small:latest")
    assert (answer.prompt_eval_count, answer.eval_count) == (7, 3)
    assert answer.total_duration
    assert answer.created_at
    wanted: dict[str, Any] = {"temperature": 0.0, "stop": ["x"], "seed": 1, "max_tokens": 5}
    off = {"enable_thinking": False, "thinking": False}
    wanted["chat_template_kwargs"] = off
    assert engine.asked == [(CHAT, {"model": "small:latest", "messages": ASK, **wanted})]


def test_a_chat_in_pieces(client: ollama.Client, engine: Engine) -> None:
    engine.message["reasoning_content"] = "hm"
    parts = list(client.chat("small", ASK, stream=True))

    assert "".join(part.message.content or "" for part in parts) == "hello you"
    assert parts[0].message.thinking == "hm"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].prompt_eval_count) == (3, 7)
    assert engine.asked[0][1]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
def test_tools_both_ways(client: ollama.Client, engine: Engine, stream: bool) -> None:
    calls = [
        {"id": f"t{i}", "type": "function", "function": {"name": "add", "arguments": text}}
        for i, text in enumerate(['{"a": 1, "b": [2]}', "{}", "[3]"])
    ]
    engine.message = {"role": "assistant", "content": None, "tool_calls": calls}
    engine.end = "tool_calls"
    if stream:
        answers = list(client.chat("small", ASK, tools=[ADD], stream=True))
    else:
        answers = [client.chat("small", ASK, tools=[ADD])]
    made = [call for answer in answers for call in answer.message.tool_calls or ()]

    assert [call.function.name for call in made] == ["add"] * 3
    assert [dict(call.function.arguments) for call in made] == [
        {"a": 1, "b": [2]},
        {},
        {"value": [3]},
    ]
    assert answers[-1].done_reason == "stop"

    replies = [{"role": "tool", "content": str(i), "tool_name": "add"} for i in range(3)]
    history: list[dict[str, Any] | ollama.Message] = [
        *ASK,
        ollama.Message(role="assistant", tool_calls=made),
        *replies,
    ]
    client.chat("small", [*history, ollama.Message(role="assistant", tool_calls=made[:1])])
    sent = engine.asked[1][1]["messages"]
    ids = [call["id"] for call in sent[1]["tool_calls"]]
    assert len({*ids, sent[-1]["tool_calls"][0]["id"]}) == 4
    assert [message["tool_call_id"] for message in sent[2:5]] == ids
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": [2]}
    assert engine.asked[0][1]["tools"][0]["function"]["name"] == "add"


def test_images(client: ollama.Client, engine: Engine) -> None:
    client.chat("small", [{"role": "user", "content": "see", "images": [ollama.Image(value=PNG)]}])
    client.generate("small", "see", images=["/9j/4AAQ"], system="be brief")
    content = engine.asked[0][1]["messages"][0]["content"]

    assert content[0] == {"type": "text", "text": "see"}
    link = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert content[1] == {"type": "image_url", "image_url": {"url": link}}
    system, user = engine.asked[1][1]["messages"]
    assert system == {"role": "system", "content": "be brief"}
    assert user["content"][1]["image_url"]["url"] == "data:image/jpeg;base64,/9j/4AAQ"


def test_formats(client: ollama.Client, engine: Engine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    client.chat("small", ASK, format="json")
    client.chat("small", ASK, format=schema)
    client.chat("small", ASK, format="")
    made = [body.get("response_format") for _, body in engine.asked]

    assert made[0] == {"type": "json_object"}
    assert made[1] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert made[2] is None


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt(client: ollama.Client, engine: Engine, raw: bool, stream: bool) -> None:
    engine.end = "length"
    options = {"num_predict": -1}
    if stream:
        answers = list(client.generate("small", "hi", raw=raw, stream=True, options=options))
    else:
        answers = [client.generate("small", "hi", raw=raw, options=options)]

    assert "".join(answer.response or "" for answer in answers) == "hello you"
    assert (answers[-1].done, answers[-1].done_reason, answers[-1].eval_count) == (
        True,
        "length",
        3,
    )
    path, body = engine.asked[0]
    assert path == (TEXT if raw else CHAT)
    assert body["prompt" if raw else "messages"] == ("hi" if raw else ASK)
    assert "max_tokens" not in body


def test_a_suffix_goes_to_completions(client: ollama.Client, engine: Engine) -> None:
    client.generate("small", "def f(", suffix="return")
    assert engine.asked == [(TEXT, {"model": "small", "prompt": "def f(", "suffix": "return"})]


def test_log_probabilities(client: ollama.Client, engine: Engine) -> None:
    client.chat("small", ASK, logprobs=True, top_logprobs=2)
    assert engine.asked[0][1]["top_logprobs"] == 2


def test_nothing_is_asked_of_an_engine_to_load_a_model(
    client: ollama.Client, engine: Engine
) -> None:
    assert client.generate("small").done_reason == "load"
    assert client.chat("small", []).done_reason == "load"
    assert client.generate("small", keep_alive=0).done_reason == "unload"
    assert engine.asked == []


def test_vectors(client: ollama.Client, engine: Engine) -> None:
    many = client.embed("e", ["a", "b"], dimensions=2)
    one = client.embed("e", "a")
    old = client.embeddings("e", "a")

    assert many.embeddings == [[0.0, 0.5], [1.0, 0.5]]
    assert (many.prompt_eval_count, one.embeddings, old.embedding) == (7, [[0.0, 0.5]], [0.0, 0.5])
    assert engine.asked[0][1]["dimensions"] == 2


def test_failures_are_said_as_ollama_says_them(client: ollama.Client, engine: Engine) -> None:
    engine.failure = (404, b'{"error":{"message":"no such model","code":404}}')
    with pytest.raises(ollama.ResponseError, match="no such model") as caught:
        client.chat("small", ASK)
    assert caught.value.status_code == 404
    assert caught.value.error == "no such model"
    with pytest.raises(ollama.ResponseError, match="no such model"):
        list(client.chat("small", ASK, stream=True))


def test_an_engine_that_dies_is_an_error_in_the_stream(
    client: ollama.Client, engine: Engine
) -> None:
    engine.cut = True
    got: list[ollama.ChatResponse] = []
    with pytest.raises(ollama.ResponseError, match="the engine died"):
        got.extend(client.chat("small", ASK, stream=True))
    assert "".join(part.message.content or "" for part in got) == "hello you"


def test_lists(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["small", "e"]
    first = client.list().models[0]
    assert first.modified_at
    assert first.modified_at.year == 2001
    assert first.details
    assert first.details.format == "vllm"
    loaded = client.ps().models[0]
    assert (loaded.name, loaded.context_length) == ("small", 4096)
    shown = client.show("small:latest")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo
    assert shown.modelinfo["llm.context_length"] == 4096
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("other")
    assert caught.value.status_code == 404
    assert json.loads(version())["version"].count(".") == 2
