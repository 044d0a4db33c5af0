"""scripts/gguf_api_server.py with the real llama-cpp-python and the demo model."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import openai
import pytest

from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "scripts" / "gguf_api_server.py"
MODEL = ROOT / "examples" / "demo-model" / "demo-f16.gguf"
KEY = "key-of-the-test"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ENDLESS = {"temperature": 0, "max_tokens": 7000, "logit_bias": {"0": -100, "1": -100, "2": -100}}
"""Some 15 seconds of text, since nothing may end it."""
QUESTION = [{"role": "user", "content": "Who wrote Emma?"}]
ANSWER = "Jane Austen wrote Emma."

pytestmark = pytest.mark.engine


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI an engine that is not there is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("HPC_SERVE_TEST_LLAMACPP_PYTHON")
    if not named and importlib.util.find_spec("llama_cpp") is None:
        unavailable("llama-cpp-python is not installed: pip install '.[llamacpp]'")
    return named or sys.executable


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    log: Path
    url: str

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=HEADERS, timeout=4 * PATIENCE_S)

    def metric(self, name: str) -> float:
        with self.client() as client:
            text = client.get("/metrics").text
        found = re.search(rf"^llamacpp:{name} (\S+)$", text, re.MULTILINE)
        assert found, text
        return float(found[1])

    def wait_metric(self, name: str, value: float) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)


def start(python: str, folder: Path, **env: str) -> Server:
    base = {"PATH": os.environ["PATH"], "N_THREADS": "1", "PORT": "0", "API_KEY": KEY}
    base |= {"MODEL_NAME": str(MODEL), "MODEL_ALIAS": "demo", "CONTEXT_SIZE": "8192"}
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [python, str(SERVER)], env=base | env, stdout=file, stderr=file, cwd=folder
        )
    return Server(process, log, "")


@contextlib.contextmanager
def running(python: str, folder: Path, **env: str) -> Iterator[Server]:
    """Yield a server that listens, loaded or not."""
    server = start(python, folder, **env)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "listening on" not in server.text():
            assert server.process.poll() is None, server.text()
            assert time.monotonic() < deadline, server.text()
            time.sleep(0.05)
        found = re.search(r"listening on \('127.0.0.1', (\d+)\)", server.text())
        server.url = f"http://127.0.0.1:{found[1]}" if found else ""
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def wait_ready(server: Server) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with httpx.Client(base_url=server.url) as client:
        while client.get("/health").status_code != httpx.codes.OK:
            assert time.monotonic() < deadline, server.text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def server(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(python, tmp_path_factory.mktemp("gguf"), QUEUE_SIZE="2") as started:
        wait_ready(started)
        yield started


@pytest.fixture
def idle(server: Server) -> Server:
    server.wait_metric("requests_processing", 0)
    server.wait_metric("requests_deferred", 0)
    return server


def chat(server: Server, **changes: Any) -> httpx.Response:
    body = {"model": "demo", "messages": QUESTION, "temperature": 0, **changes}
    with server.client() as client:
        return client.post("/v1/chat/completions", json=body)


@contextlib.contextmanager
def streaming(server: Server, **changes: Any) -> Iterator[Iterator[str]]:
    """Yield the lines of a stream that has begun."""
    body = {"model": "demo", "messages": QUESTION, "stream": True, **ENDLESS, **changes}
    with (
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.status_code == httpx.codes.OK, response.read()
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield lines


def test_answers_a_chat(idle: Server) -> None:
    answer = chat(idle).json()

    assert answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}


def test_joins_text_parts(idle: Server) -> None:
    parts = [{"type": "text", "text": "Who wrote "}, {"type": "text", "text": "Emma?"}]

    answer = chat(idle, messages=[{"role": "user", "content": parts}]).json()

    assert answer["choices"][0]["message"]["content"] == ANSWER


def test_streams_to_the_openai_package_with_usage_last(idle: Server) -> None:
    with openai.OpenAI(base_url=f"{idle.url}/v1", api_key=KEY, max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": "Who wrote Emma?"}],
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )

    told = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(told) == ANSWER
    assert len([piece for piece in told if piece]) == 7
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7
    assert chunks[-1].usage.prompt_tokens == 12


def test_sends_no_usage_unasked(idle: Server) -> None:
    with streaming(idle, max_tokens=3) as lines:
        events = [line for line in lines if line]

    assert events[-1] == "data: [DONE]"
    assert not any("usage" in event for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_completes_text(idle: Server, stream: bool) -> None:
    with openai.OpenAI(base_url=f"{idle.url}/v1", api_key=KEY, max_retries=0) as client:
        told = client.completions.create(
            model="demo", prompt="It is a truth", temperature=0, max_tokens=8, stream=stream
        )
        text = "".join(c.choices[0].text for c in told) if stream else told.choices[0].text  # type: ignore[union-attr]

    assert len(text.split()) >= 4


@pytest.mark.parametrize("stream", [False, True])
def test_follows_a_json_schema(idle: Server, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"right": {"type": "boolean"}},
        "required": ["right"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    with openai.OpenAI(base_url=f"{idle.url}/v1", api_key=KEY, max_retries=0) as client:
        asked: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Who wrote Emma?"}],
            "temperature": 0,
            "max_tokens": 40,
            "response_format": wanted,
        }
        if stream:
            parts = client.chat.completions.create(**asked, stream=True)
            text: str | None = "".join(part.choices[0].delta.content or "" for part in parts)
        else:
            text = client.chat.completions.create(**asked, stream=False).choices[0].message.content

    assert isinstance(json.loads(text or "")["right"], bool)


@pytest.mark.parametrize("prompt", ["", []])
def test_refuses_prompts_that_are_empty(idle: Server, prompt: Any) -> None:
    with idle.client() as client:
        answer = client.post("/v1/completions", json={"prompt": prompt})

    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert answer.json()["error"]["message"].startswith("prompt")


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "called",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": [], "tool_calls": [CALL]},
        {"role": "assistant", "content": [{"type": "text", "text": None}], "tool_calls": [CALL]},
    ],
)
def test_a_tool_loops_second_turn_is_answered(idle: Server, called: dict[str, Any]) -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "Jane Austen"}

    answer = chat(idle, messages=[*QUESTION, called, result], max_tokens=8)

    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"n": 2}, "server: llama-server"),
        ({"logprobs": True, "top_logprobs": 2}, "server: llama-server"),
        ({"max_tokens": 0}, "max_tokens: allowed: 1 and more"),
        ({"max_completion_tokens": -2}, "max_completion_tokens: allowed"),
    ],
)
def test_a_request_beyond_the_server_names_the_field_or_another_server(
    idle: Server, body: dict[str, Any], named: str
) -> None:
    answer = chat(idle, **{"messages": QUESTION, **body})

    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert named in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/rerank"])
def test_a_path_that_is_not_served_names_another_server(idle: Server, path: str) -> None:
    with idle.client() as client:
        answer = client.post(path, json={"input": "a"})

    assert answer.status_code == httpx.codes.NOT_FOUND
    assert "server: llama-server" in answer.json()["error"]["message"]


def test_no_limit_is_the_context(idle: Server) -> None:
    answer = chat(idle, messages=QUESTION, max_tokens=-1, temperature=0).json()

    assert answer["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize("prompt", [["It is", "It was a", "Who"], [[5, 6], [7, 8, 9], [10]]])
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_answered_by_index(idle: Server, prompt: Any, stream: bool) -> None:
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 4, "temperature": 0}
    with openai.OpenAI(base_url=f"{idle.url}/v1", api_key=KEY, max_retries=0) as client:
        alone = [
            client.completions.create(model="demo", **{**asked, "prompt": one}) for one in prompt
        ]
        told = client.completions.create(model="demo", stream=stream, **asked)
        answers: list[Any] = list(told) if stream else [told]

    texts = ["", "", ""]
    for choice in (choice for answer in answers for choice in answer.choices):
        texts[choice.index] += choice.text
    assert texts == [one.choices[0].text for one in alone]
    if not stream:
        spent = [one.usage.total_tokens for one in alone if one.usage is not None]
        assert answers[0].usage.total_tokens == sum(spent)


def test_two_at_once_queue_and_neither_is_cut(idle: Server) -> None:
    def collect() -> list[str]:
        with streaming(idle, max_tokens=300) as lines:
            return [line for line in lines if line]

    with ThreadPoolExecutor(1) as pool, streaming(idle, max_tokens=1500) as lines:
        second = pool.submit(collect)
        idle.wait_metric("requests_deferred", 1)
        assert idle.metric("requests_processing") == 1
        first = [line for line in lines if line]

        for events in (first, second.result()):
            assert events[-1] == "data: [DONE]"
            assert json.loads(events[-2][6:])["choices"][0]["finish_reason"] == "length"


def test_answers_at_once_while_it_generates(idle: Server) -> None:
    with streaming(idle) as lines, idle.client() as client:
        for path in ("/health", "/v1/models", "/metrics"):
            assert client.get(path).status_code == httpx.codes.OK, path
        assert idle.metric("requests_processing") == 1
        assert next(line for line in lines if line).startswith("data: ")


def test_a_stream_that_is_left_stops(idle: Server) -> None:
    before = idle.metric("tokens_predicted_total")
    with streaming(idle):
        pass

    idle.wait_metric("requests_processing", 0)
    assert idle.metric("tokens_predicted_total") - before < 6000


@contextlib.contextmanager
def asking(server: Server, **changes: Any) -> Iterator[None]:
    """Ask, and leave at the end of the block without a look at the answer."""
    body = json.dumps({"model": "demo", "messages": QUESTION, **ENDLESS, **changes}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(head + body)
        yield


def test_an_answer_that_is_not_awaited_stops(idle: Server) -> None:
    before = idle.metric("tokens_predicted_total")

    with asking(idle):
        idle.wait_metric("requests_processing", 1)
        time.sleep(0.3)  # into the generation, on most machines

    idle.wait_metric("requests_processing", 0)
    assert idle.metric("tokens_predicted_total") - before < 6000


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_the_queue_is_never_served(idle: Server, stream: bool) -> None:
    before = idle.metric("tokens_predicted_total")
    with streaming(idle):
        with asking(idle, stream=stream):
            idle.wait_metric("requests_deferred", 1)
        idle.wait_metric("requests_deferred", 0)
    idle.wait_metric("requests_processing", 0)

    assert chat(idle).json()["choices"][0]["message"]["content"] == ANSWER
    assert idle.metric("tokens_predicted_total") - before < 6000


def test_leaving_during_a_long_prompt_stops_it(idle: Server) -> None:
    """The prompt has several batches: left in one of them, no token follows."""
    long = "It is a truth universally acknowledged. " * 450
    before = idle.metric("tokens_predicted_total")

    with asking(idle, messages=[{"role": "user", "content": long}]):
        idle.wait_metric("requests_processing", 1)
    idle.wait_metric("requests_processing", 0)

    assert idle.metric("tokens_predicted_total") == before


def test_a_full_queue_says_so(idle: Server) -> None:
    def wait() -> int:
        return chat(idle, max_tokens=5).status_code

    with ThreadPoolExecutor(2) as pool:
        with streaming(idle):
            waiting = [pool.submit(wait) for _ in range(2)]
            idle.wait_metric("requests_deferred", 2)
            refused = chat(idle)
        codes = [future.result() for future in waiting]

    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "overloaded_error"
    assert codes == [200, 200]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, 400, "context_length_exceeded"),
        ({"model": "other"}, 404, "model_not_found"),
        ({"messages": []}, 400, None),
        ({"messages": "hello"}, 400, None),
        ({"temperature": -1}, 400, None),
        ({"n": 2}, 400, None),
        ({"logprobs": True, "top_logprobs": 2}, 400, None),
        ({"response_format": {"type": "json_schema"}}, 400, None),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_openais(
    idle: Server, changes: dict[str, Any], status: int, code: str | None, stream: bool
) -> None:
    answer = chat(idle, stream=stream, **changes)

    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert error["message"]


def test_asks_for_the_key_everywhere_but_health(idle: Server) -> None:
    with httpx.Client(base_url=idle.url, headers={"Authorization": "Bearer wrong"}) as client:
        refused = [
            client.get("/v1/models"),
            client.get("/metrics"),
            client.post("/v1/chat/completions", json={"messages": QUESTION}),
            client.post("/v1/completions", json={"prompt": "x"}),
        ]
        health = client.get("/health")

    assert [answer.status_code for answer in refused] == [401] * 4
    assert refused[0].json()["error"]["code"] == "invalid_api_key"
    assert health.json() == {"status": "ok"}


def test_unknown_paths_answer_in_the_same_schema(idle: Server) -> None:
    with idle.client() as client:
        answer = client.get("/v1/nothing")

    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_unix_socket_is_its_owners_and_goes_with_the_server(python: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with running(python, tmp_path, SOCKET=str(path)) as server:
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://engine", headers=HEADERS) as client:
            while client.get("/health").status_code != httpx.codes.OK:
                time.sleep(0.05)
            model = client.get("/v1/models").json()["data"][0]["id"]
        mode = stat.S_IMODE(path.stat().st_mode)
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(PATIENCE_S)

    assert model == "demo"
    assert mode == 0o600
    assert code == 0
    assert not path.exists()


def test_sigterm_ends_it_in_the_middle_of_an_answer(python: str, tmp_path: Path) -> None:
    with running(python, tmp_path) as server:
        wait_ready(server)
        events: list[str] = []
        with contextlib.suppress(httpx.HTTPError), streaming(server) as lines:
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(PATIENCE_S)
            events.extend(lines)

    assert code == 0
    assert not any('"finish_reason":"length"' in event.replace(" ", "") for event in events)


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"MODEL_NAME": "/nowhere/x.gguf"}, 1, "there is no model file /nowhere/x.gguf"),
        ({"MODEL_NAME": str(SERVER)}, 1, "cannot load"),
        ({"MODEL_NAME": ""}, 2, "MODEL_NAME: Field required"),
        ({"CONTEXT_SIZE": "many"}, 2, "CONTEXT_SIZE: Input should be a valid integer"),
        ({"SOCKET": "/nowhere/engine.sock"}, 1, "cannot listen where SOCKET says"),
    ],
)
def test_a_start_that_fails_says_why(
    python: str, tmp_path: Path, env: dict[str, str], code: int, said: str
) -> None:
    server = start(python, tmp_path, **env)

    assert server.process.wait(60) == code
    assert said in server.text()


@contextlib.contextmanager
def hugging_face(gate: threading.Event) -> Iterator[str]:
    """Yield the address of a server that gives the demo model as Hugging Face would, once open."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            gate.wait(60)
            self._answer()
            self.wfile.write(MODEL.read_bytes())

        def _answer(self) -> None:
            known = self.path == "/org/repo/resolve/main/q/demo.gguf"
            self.send_response(200 if known else 404)
            self.send_header("ETag", '"c0ffee"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", str(MODEL.stat().st_size if known else 0))
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            gate.set()
            httpd.shutdown()
            thread.join()


def test_downloads_what_is_not_cached_and_says_loading_meanwhile(
    python: str, tmp_path: Path
) -> None:
    gate = threading.Event()
    with hugging_face(gate) as endpoint:
        env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
        name = "org/repo:q/demo.gguf"
        with running(python, tmp_path, MODEL_NAME=name, MODEL_ALIAS="", **env) as server:
            with server.client() as client:
                loading = client.get("/health"), chat(server, model="demo")
            gate.set()
            wait_ready(server)
            assert chat(server, model="demo").json()["choices"][0]["message"]["content"] == ANSWER

    assert [answer.status_code for answer in loading] == [503, 503]
    assert loading[1].headers["retry-after"] == "1"

    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    with running(python, tmp_path, MODEL_NAME=name, **offline) as server:
        wait_ready(server)
