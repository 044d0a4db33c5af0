"""Anthropic's Messages API at a running gateway, in front of an engine that speaks OpenAI's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import pytest

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.engines import BrokenEngineError, serve
from tests.contract.gateway.programs import Running, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HELLO = [{"role": "user", "content": "hi"}]
ASK: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": HELLO}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
OTHER = {"id": "call_2", "type": "function", "function": {"name": "sub", "arguments": '{"b": 2}'}}


@dataclass
class ChatEngine:
    """An engine that answers chats as a test says.

    Attributes:
        message: the answer.
        reason: the reason of its end.
        status: status of the answer.
        failure: body of an answer with an error.
        chunks: deltas of a stream; without any they are made of ``message``.
        ends: how a stream ends: "well", "error", "early" or "break".
        seen: path, headers and body of all requests.
    """

    message: dict[str, Any] = field(default_factory=lambda: {"content": "hello you"})
    reason: str = "stop"
    stop: str | int | None = None
    status: int = 200
    failure: Any = None
    chunks: list[dict[str, Any]] = field(default_factory=list)
    ends: str = "well"
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        asked = json.loads(body + message.get("body", b"") or b"{}")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.seen.append((scope["path"], headers, asked))
        events = self.status == 200 and bool(asked.get("stream"))
        said = self.stream() if events else self.whole()
        kind = b"text/event-stream" if events else b"application/json"
        start = {"type": "http.response.start", "status": self.status}
        await send({**start, "headers": [(b"content-type", kind)]})
        for at in range(0, len(said), 90):
            await send(
                {"type": "http.response.body", "body": said[at : at + 90], "more_body": True}
            )
        if events and self.ends == "break":
            raise BrokenEngineError
        await send({"type": "http.response.body", "body": b""})

    def whole(self) -> bytes:
        if self.status != 200:
            return json.dumps(self.failure).encode()
        message = {"role": "assistant", **self.message}
        choice = {"index": 0, "finish_reason": self.reason, "stop_reason": self.stop}
        return json.dumps({"choices": [{**choice, "message": message}], "usage": USAGE}).encode()

    def stream(self) -> bytes:
        deltas = self.chunks or [{"role": "assistant", "content": ""}, {**self.message}]
        events: list[Any] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        if self.ends == "error":
            events.append({"error": {"message": "the engine died", "code": 500}})
        if self.ends == "well":
            last = {"index": 0, "delta": {}, "finish_reason": self.reason, "stop_reason": self.stop}
            events += [{"choices": [last]}, {"choices": [], "usage": USAGE}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        return "".join([*lines, "data: [DONE]\n\n" if self.ends == "well" else ""]).encode()

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the last request."""
        return self.seen[-1][2]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, ChatEngine, Path]]:
    engine = ChatEngine()
    home = tmp_path_factory.mktemp("anthropic") / "home"
    with serve(engine) as url, run_gateway(home, {"m": url}) as gateway:  # type: ignore[arg-type]
        yield gateway, engine, home


@pytest.fixture
def engine(started: tuple[Running, ChatEngine, Path]) -> ChatEngine:
    started[1].__init__()  # type: ignore[misc]
    return started[1]


@pytest.fixture
def client(started: tuple[Running, ChatEngine, Path]) -> Iterator[httpx.Client]:
    with client_of(started[0]) as found:
        yield found


def client_of(gateway: Running, key: str | None = None) -> httpx.Client:
    head = {"x-api-key": key or gateway.key, "anthropic-version": "2023-06-01"}
    return httpx.Client(base_url=gateway.url, headers=head, trust_env=False, timeout=60)


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the data of an event stream, whose names are those of the data's types."""
    found = []
    for event in filter(None, answer.text.split("\n\n")):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_an_answer_has_anthropics_form(client: httpx.Client, engine: ChatEngine) -> None:
    answer = client.post(MESSAGES, json=ASK)
    told = answer.json()
    assert told.pop("id").startswith("msg_")
    assert told == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hello you"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    path, headers, asked = engine.seen[-1]
    assert path == "/v1/chat/completions"
    assert asked == {"model": "m", "messages": HELLO, "max_tokens": 50}
    assert not {"x-api-key", "api-key", "authorization", "anthropic-version"} & headers.keys()


def test_reasons_for_the_end_are_anthropics(client: httpx.Client, engine: ChatEngine) -> None:
    for reason, stop, message, expected in (
        ("stop", None, {"content": "x"}, ("end_turn", None)),
        ("length", None, {"content": "x"}, ("max_tokens", None)),
        ("stop", "END", {"content": "x"}, ("stop_sequence", "END")),
        ("stop", 151645, {"content": "x"}, ("end_turn", None)),
        ("content_filter", None, {"content": None, "refusal": "no"}, ("refusal", None)),
        ("tool_calls", None, {"content": None, "tool_calls": [CALL]}, ("tool_use", None)),
        ("stop", None, {"content": None, "tool_calls": [CALL]}, ("tool_use", None)),
        ("length", None, {"content": None, "tool_calls": [CALL]}, ("max_tokens", None)),
    ):
        engine.reason, engine.stop, engine.message = reason, stop, message
        whole = client.post(MESSAGES, json=ASK).json()
        assert (whole["stop_reason"], whole["stop_sequence"]) == expected
        if "tool_calls" not in message:
            streamed = events(client.post(MESSAGES, json={**ASK, "stream": True}))[-2]["delta"]
            assert (streamed["stop_reason"], streamed["stop_sequence"]) == expected


def test_blocks_of_an_answer_come_in_order(client: httpx.Client, engine: ChatEngine) -> None:
    for name in ("reasoning_content", "reasoning"):
        engine.message = {name: "hm", "content": "I add", "tool_calls": [CALL, OTHER]}
        told = client.post(MESSAGES, json=ASK).json()
        assert told["content"] == [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "I add"},
            {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "sub", "input": {"b": 2}},
        ]
    engine.message = {"content": None}
    assert client.post(MESSAGES, json=ASK).json()["content"] == [{"type": "text", "text": ""}]


def test_a_stream_has_anthropics_events_in_order(client: httpx.Client, engine: ChatEngine) -> None:
    def piece(number: int, **function: str) -> dict[str, Any]:
        named = {"id": f"call_{number}"} if "name" in function else {}
        return {"tool_calls": [{"index": number, **named, "function": function}]}

    engine.reason = "tool_calls"
    engine.chunks = [
        {"role": "assistant", "content": ""},
        {"reasoning": "h"},
        {"reasoning": "m"},
        {"content": "I "},
        {"content": "add"},
        piece(0, name="add", arguments=""),
        piece(0, arguments='{"a"'),
        piece(1, name="sub", arguments='{"b"'),
        piece(0, arguments=": 1}"),
        piece(1, arguments=": 2}"),
    ]
    answer = client.post(MESSAGES, json={**ASK, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert engine.asked["stream_options"] == {"include_usage": True}
    told = events(answer)
    message = told[0].pop("message")
    assert (message["role"], message["model"], message["content"]) == ("assistant", "m", [])
    assert message["stop_reason"] is None
    assert set(message["usage"]) >= {"input_tokens", "output_tokens"}
    empty: dict[str, Any] = {"type": "tool_use", "input": {}}

    def start(index: int, **block: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, kind: str, **said: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **said}}

    def stop(index: int) -> dict[str, Any]:
        return {"type": "content_block_stop", "index": index}

    usage = {"input_tokens": 8, "output_tokens": 5}
    cached = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 4}
    assert told == [
        {"type": "message_start"},
        {"type": "ping"},
        start(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="h"),
        delta(0, "thinking_delta", thinking="m"),
        stop(0),
        start(1, type="text", text=""),
        delta(1, "text_delta", text="I "),
        delta(1, "text_delta", text="add"),
        stop(1),
        start(2, **empty, id="call_0", name="add"),
        delta(2, "input_json_delta", partial_json='{"a"'),
        delta(2, "input_json_delta", partial_json=": 1}"),
        stop(2),
        start(3, **empty, id="call_1", name="sub"),
        delta(3, "input_json_delta", partial_json='{"b": 2}'),
        stop(3),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": usage | cached,
        },
        {"type": "message_stop"},
    ]


def test_a_stream_that_breaks_ends_with_an_error_event(
    client: httpx.Client, engine: ChatEngine
) -> None:
    for ends, message in (
        ("error", "the engine died"),
        ("early", "ended early"),
        ("break", "in mid-stream"),
    ):
        engine.ends = ends
        told = events(client.post(MESSAGES, json={**ASK, "stream": True}))
        assert [one["type"] for one in told[:2]] == ["message_start", "ping"]
        assert "hello you" in json.dumps(told[:-1])
        assert told[-1]["type"] == "error"
        assert told[-1]["error"]["type"] == "api_error"
        assert message in told[-1]["error"]["message"]


def test_a_count_is_the_engines_own(client: httpx.Client, engine: ChatEngine) -> None:
    tools = [{"name": "add", "input_schema": {"type": "object"}}]
    asked = {"model": "m", "system": "be brief", "messages": HELLO, "tools": tools}
    assert client.post(COUNT, json=asked).json() == {"input_tokens": 12}
    assert engine.asked["max_tokens"] == 1
    assert engine.asked["messages"][0] == {"role": "system", "content": "be brief"}
    assert engine.asked["tools"][0]["function"]["name"] == "add"


BOTH = "input length and `max_tokens` exceed context limit:"
OLDER = (
    "This model's maximum context length is 55 tokens. However, you requested 60 tokens (10 in the"
    " messages, 50 in the completion). Please reduce the length of the messages or completion."
)
OLD = (
    "'max_tokens' or 'max_completion_tokens' is too large: 50. This model's maximum context length"
    " is 55 tokens and your request has 10 input tokens (50 > 55 - 10)."
)
INVALID = "invalid_request_error"
Refusal = tuple[httpx.Response, int, str, str]


def check(refusals: list[Refusal]) -> None:
    for answer, status, kind, words in refusals:
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert told["type"] == "error", told
        assert told["error"]["type"] == kind
        assert words in told["error"]["message"]
        assert set(told) == {"type", "error"}
        assert set(told["error"]) == {"type", "message"}
        assert answer.headers["request-id"] == answer.headers["x-request-id"]


def test_refusals_of_a_key_have_anthropics_form(started: tuple[Running, ChatEngine, Path]) -> None:
    gateway, _, home = started
    keys = directory.keys_path(home)
    scarce, _ = key_store.add(keys, "scarce", limits=KeyLimits(rpm=2, max_prompt_tokens=30))
    narrow, _ = key_store.add(keys, "narrow", models=("other",))
    long = {**ASK, "messages": [{"role": "user", "content": "x" * 1000}]}
    with client_of(gateway, narrow) as one, client_of(gateway, scarce) as other:
        wait_until(lambda: other.get("/v1/models").status_code == 200)
        wait_until(lambda: one.get("/v1/models").status_code == 200)
        check(
            [
                (one.post(MESSAGES, json=ASK), 403, "permission_error", "may not use"),
                (other.post(MESSAGES, json=long), 400, INVALID, "prompt is too long"),
                (other.post(MESSAGES, json=long), 400, INVALID, "prompt is too long"),
                (other.post(MESSAGES, json=ASK), 429, "rate_limit_error", ""),
            ]
        )
    with client_of(gateway, "wrong") as client:
        answers = [client.post(path, json=ASK) for path in (MESSAGES, COUNT)]
        answers.append(client.get("/v1/models"))
    check([(answer, 401, "authentication_error", "valid key") for answer in answers])


def test_refusals_of_a_request_have_anthropics_form(client: httpx.Client) -> None:
    post, nowhere = client.post, "not_found_error"
    check(
        [
            (post(MESSAGES, json={**ASK, "model": "none"}), 404, nowhere, "none"),
            (post(MESSAGES, content=b"{"), 400, INVALID, "JSON"),
            (post(MESSAGES, json=[]), 400, INVALID, "object"),
            (post(MESSAGES, json={"model": "m", "messages": HELLO}), 400, INVALID, "max_tokens"),
            (post(MESSAGES, json={**ASK, "max_tokens": 0}), 400, INVALID, "max_tokens"),
            (post(MESSAGES, json={**ASK, "stream": "yes"}), 400, INVALID, "stream"),
            (post(MESSAGES + "?beta=true", json={**ASK, "messages": []}), 400, INVALID, "messages"),
            (post(COUNT, json={"messages": HELLO}), 400, INVALID, "model"),
            (client.get(MESSAGES), 405, INVALID, "GET"),
            (post(MESSAGES + "/batches", json={}), 404, nowhere, "batches"),
            (client.get("/v1/models/none"), 404, nowhere, "none"),
        ]
    )


def test_refusals_of_an_engine_have_anthropics_form(
    client: httpx.Client, engine: ChatEngine
) -> None:
    for status, failure, kind, words in (
        (400, {"error": {"message": "no such thing"}}, INVALID, "no such thing"),
        (400, {"error": {"message": "maximum context length is 5"}}, INVALID, "prompt is too long"),
        (400, {"error": {"message": OLDER}}, INVALID, f"{BOTH} 10 + 50 > 55"),
        (400, {"error": {"message": OLD}}, INVALID, f"{BOTH} 10 + 50 > 55"),
        (503, {"detail": "busy"}, "overloaded_error", "busy"),
        (500, "broken", "api_error", "broken"),
    ):
        engine.status, engine.failure = status, failure
        for stream in (False, True):
            answer = client.post(MESSAGES, json={**ASK, "stream": stream})
            check([(answer, status, kind, words)])


def test_limits_and_redaction_hold_as_on_chats(engine: ChatEngine, tmp_path: Path) -> None:
    """The engine's count is charged, and addresses are hidden from the engine and the client."""
    engine.message = {"content": "ask bob@example.org"}
    mail = [{"role": "user", "content": [{"type": "text", "text": "I am eve@example.org"}]}]
    home, policy = tmp_path / "home", {"redact": {"kinds": ["email"], "answers": True}}
    with (
        serve(engine) as url,  # type: ignore[arg-type]
        run_gateway(home, {"m": url}, policy=policy) as gateway,
    ):
        keys = directory.keys_path(home)
        counted, _ = key_store.add(keys, "counted", limits=KeyLimits(tpm=1000))
        with client_of(gateway, counted) as client:
            wait_until(lambda: client.get("/v1/models").status_code == 200)
            left = []
            for stream in (False, True, False):
                answer = client.post(MESSAGES, json={**ASK, "messages": mail, "stream": stream})
                assert answer.status_code == 200, answer.text
                assert "@example.org" not in json.dumps(engine.asked) + answer.text
                assert "ask " in answer.text
                left.append(int(answer.headers["x-ratelimit-remaining-tokens"]))
        assert left[0] - left[2] == 2 * USAGE["total_tokens"]  # type: ignore[operator]


def test_models_have_the_fields_of_both_apis(client: httpx.Client) -> None:
    told = client.get("/v1/models").json()
    assert (told["object"], told["has_more"]) == ("list", False)
    assert (told["first_id"], told["last_id"]) == ("m", "m")
    (model,) = told["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("m", "model", "hpc-serve")
    assert (model["type"], model["display_name"], model["lifecycle"]) == ("model", "m", "active")
    assert datetime.fromisoformat(model["created_at"]).timestamp() == model["created"]
    assert client.get("/v1/models/m").json() == model


def test_a_key_is_shown_in_any_of_three_headers(
    started: tuple[Running, ChatEngine, Path], engine: ChatEngine
) -> None:
    gateway, _, _ = started
    chat = {"model": "m", "messages": HELLO}
    shown = (
        {"authorization": f"Bearer {gateway.key}"},
        {"x-api-key": gateway.key},
        {"api-key": gateway.key},
        {"x-api-key": gateway.key, "authorization": "Basic Zm9v"},
        {"x-api-key": "wrong", "authorization": f"Bearer {gateway.key}"},
    )
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        for head in shown:
            for path, body in ((MESSAGES, ASK), ("/v1/chat/completions", chat)):
                assert client.post(path, json=body, headers=head).status_code == 200, head
                assert gateway.key not in json.dumps(engine.seen[-1][1])
            for path in ("/v1/models", "/version", "/v1/files", "/dashboard/data"):
                assert client.get(path, headers=head).status_code in {200, 404}, (path, head)
        for head in ({}, {"x-api-key": "wrong"}, {"api-key": ""}, {"api-key": "Bearer x"}):
            assert client.post(MESSAGES, json=ASK, headers=head).status_code == 401
            assert client.get("/v1/models", headers=head).status_code == 401


ADD = {
    "name": "add",
    "description": "adds",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


@pytest.fixture
def official(started: tuple[Running, ChatEngine, Path]) -> Iterator[anthropic.Anthropic]:
    gateway = started[0]
    with anthropic.Anthropic(
        api_key=gateway.key,
        base_url=gateway.url,
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(trust_env=False),
    ) as found:
        yield found


def test_the_official_client_reads_every_answer(
    official: anthropic.Anthropic, engine: ChatEngine
) -> None:
    asked: Any = {"model": "m", "max_tokens": 50, "messages": HELLO, "tools": [ADD]}
    engine.message = {"reasoning": "hm", "content": "I add", "tool_calls": [CALL]}
    engine.reason = "tool_calls"
    told = official.messages.create(**asked)
    assert [block.type for block in told.content] == ["thinking", "text", "tool_use"]
    with official.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "I add"
        streamed = stream.get_final_message()
    assert [b.model_dump() for b in streamed.content] == [b.model_dump() for b in told.content]
    assert streamed.stop_reason == told.stop_reason == "tool_use"
    assert streamed.usage.model_dump() == told.usage.model_dump()
    assert official.messages.count_tokens(model="m", messages=asked["messages"]).input_tokens == 12
    (model,) = official.models.list()
    assert (model.id, model.display_name) == ("m", "m")


def test_the_official_client_knows_every_error(
    official: anthropic.Anthropic, engine: ChatEngine
) -> None:
    asked: Any = {"model": "m", "max_tokens": 50, "messages": HELLO}
    with pytest.raises(anthropic.NotFoundError) as caught:
        official.messages.create(**{**asked, "model": "none"})
    assert caught.value.request_id
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        official.messages.create(**{**asked, "max_tokens": 0})
    with pytest.raises(anthropic.AuthenticationError):
        official.with_options(api_key="wrong").messages.create(**asked)
    for ends in ("error", "early", "break"):
        engine.ends = ends
        with (
            pytest.raises(anthropic.APIStatusError, match="api_error"),
            official.messages.stream(**asked) as stream,
        ):
            assert "".join(stream.text_stream)
