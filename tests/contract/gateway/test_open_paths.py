"""All paths that engines serve: open at the gateway and the sidecar, within the same limits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpc import api_paths
from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.keys.store import ALL
from hpc.state import directory
from tests.contract.gateway.engines import Engine, Seen, serve
from tests.contract.gateway.programs import Running, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

JSON_PATHS = tuple(path for path in api_paths.POST_PATHS if path not in api_paths.FORMS)
SOUND = bytes(range(256)) * 400


class Obliging(Engine):
    """An engine that takes any path and body, and keeps the bytes of forms."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message.get("more_body"):
            more = await receive()
            message = {**more, "body": message["body"] + more.get("body", b"")}
        kind = dict(scope["headers"]).get(b"content-type", b"")
        if kind.startswith(b"multipart/form-data"):
            self.bodies.append(message["body"])
            message["body"] = b"{}"

        async def again() -> Any:
            if message:
                first = dict(message)
                message.clear()
                return first
            return await receive()

        await super().__call__(scope, again, send)

    async def _answer(self, request: Seen, send: Any) -> None:
        kind, content = b"application/json", b'{"data": []}'
        if request.path == api_paths.SPEECH:
            kind, content = b"audio/mpeg", SOUND
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": content})


@pytest.fixture(scope="module")
def engine() -> Obliging:
    """Return the engine of the module."""
    return Obliging()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of the module's gateway."""
    return directory.home(str(tmp_path_factory.mktemp("paths") / "home"))


@pytest.fixture(scope="module")
def gateway(home: Path, engine: Obliging) -> Iterator[Running]:
    """Run a gateway in front of one engine under two names, one with ceilings."""
    backends = ("m", "narrow", "named")
    models: dict[str, dict[str, Any]] = {
        "narrow": {"max_prompt_tokens": 2000},
        "named": {"served_model": "org/there"},
    }
    with (
        serve(engine) as url,
        run_gateway(home, dict.fromkeys(backends, url), models=models) as running,
    ):
        yield running


@pytest.fixture
def with_limits(gateway: Running, home: Path) -> Callable[..., Running]:
    """Return a function that makes a key with limits, in force."""

    def made(name: str, models: Any = ALL, **limits: Any) -> Running:
        key, _ = key_store.add(
            directory.keys_path(home), name, models=models, limits=KeyLimits(**limits)
        )
        found = Running(gateway.process, gateway.port, key, gateway.log)
        with found.client() as client:
            wait_until(lambda: client.get("/v1/models").status_code == 200)
        return found

    return made


def form(client: httpx.Client, path: str, model: str = "m", size: int = 3, **more: Any) -> Any:
    """Send a form with a file."""
    name = "file" if "audio" in path else "image"
    files = {name: ("a.wav", SOUND[:size] if size <= len(SOUND) else b"a" * size, "audio/wav")}
    return client.post(path, data={"model": model, **more}, files=files)


@pytest.mark.parametrize("path", api_paths.POST_PATHS)
def test_a_path_of_engines_is_passed_on(gateway: Running, engine: Obliging, path: str) -> None:
    with gateway.client() as client:
        if path in api_paths.FORMS:
            answer = form(client, path, prompt="say it")
            assert b'name="prompt"\r\n\r\nsay it\r\n' in engine.bodies[-1]
        else:
            answer = client.post(path, json={"model": "m", "input": "hi"})
            assert engine.seen[-1].body == {"model": "m", "input": "hi"}
        unknown = client.post(path, json={"model": "none"})
    assert (answer.status_code, engine.seen[-1].path) == (200, path)
    assert answer.content == (SOUND if path == api_paths.SPEECH else b'{"data": []}')
    assert unknown.status_code == (400 if path in api_paths.FORMS else 404)


@pytest.mark.parametrize("path", api_paths.POST_PATHS)
def test_a_path_keeps_to_the_keys_models_and_ceilings(
    with_limits: Callable[..., Running], engine: Obliging, path: str
) -> None:
    """Every refusal comes before the engine."""
    name = path.strip("/").replace("/", "-")
    narrow = with_limits(f"{name}-a", models=("m",), max_prompt_tokens=2000)
    spent = with_limits(f"{name}-b", total_tokens=50)
    calm = with_limits(f"{name}-c", rpm=1)
    before = len(engine.seen)

    def ask(key: Running, model: str = "m", size: int = 3) -> int:
        with key.client() as client:
            if path in api_paths.FORMS:
                found: int = form(client, path, model, size).status_code
                return found
            words = {"text_1": "w" * size, "input": "w" * size, "prompt": "w" * size}
            return client.post(path, json={"model": model, **words}).status_code

    long = 600_000 if path in api_paths.FORMS else 9_000
    assert ask(narrow, model="narrow") == 403
    assert ask(narrow, size=long) in (400, 413)
    assert ask(spent, size=long) == 429
    assert len(engine.seen) == before
    assert [ask(calm), ask(calm)] == [200, 429]


def test_queries_count_for_each_document(with_limits: Callable[..., Running]) -> None:
    long, many = "w" * 4000, ["d"] * 20
    pairs = [("query", "documents"), ("queries", "items"), ("text_1", "text_2")]
    pairs += [("data_1", "data_2"), ("queries", "documents")]
    key = with_limits("pairs", max_prompt_tokens=5000)
    with key.client() as client:
        for path in (*api_paths.RANKINGS, *api_paths.SCORES):
            for first, second in pairs:
                body = {"model": "m", first: long, second: many}
                assert client.post(path, json=body).status_code == 400, (path, first)
                assert client.post(path, json={**body, second: "d"}).status_code == 200


def test_pictures_count_though_no_engine_counts_them(with_limits: Callable[..., Running]) -> None:
    key = with_limits("painter", total_tokens=20_000)
    with key.client() as client:
        ask = {"model": "m", "prompt": "tea"}
        assert client.post(api_paths.IMAGES, json={**ask, "n": 9}).status_code == 429
        assert client.post(api_paths.IMAGES, json={**ask, "n": 2}).status_code == 200
        assert form(client, api_paths.EDITS, n="9").status_code == 429
        assert form(client, api_paths.EDITS, n="2").status_code == 200
        assert form(client, api_paths.VARIATIONS).status_code == 429
        assert form(client, api_paths.EDITS, n="-1").status_code == 400


def test_a_form_reaches_the_engine_as_it_was_read(gateway: Running, engine: Obliging) -> None:
    """The server's own name, odd names of files, bytes of any kind, and events for an answer."""
    odd = 'a"\u00e4.wav'
    with gateway.client() as client:
        files = {"file": (odd, SOUND, "audio/wav")}
        answer = client.post(
            api_paths.TRANSCRIPTIONS, data={"model": "named", "language": "de"}, files=files
        )
    body, kind = engine.bodies[-1], engine.seen[-1].headers["content-type"]
    boundary = kind.partition("boundary=")[2].encode()
    parts = body.split(b"--" + boundary)
    assert answer.status_code == 200
    assert len(parts) == 5
    assert b'name="model"\r\n\r\norg/there\r\n' in parts[1]
    assert parts[3].endswith(b"\r\ncontent-type: audio/wav\r\n\r\n" + SOUND + b"\r\n")
    assert 'filename="a%22\u00e4.wav"'.encode() in parts[3]


LINE = b"\r\n"


def raw_form(*parts: tuple[bytes, bytes], boundary: bytes = b"x", end: bytes = b"--") -> bytes:
    """Return a form of heads and bodies."""
    found = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, *part) for part in parts)
    return found + b"--" + boundary + end + LINE


MODEL = (b'content-disposition: form-data; name="model"', b"m")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=x", raw_form(MODEL, MODEL)),
        ("multipart/form-data; boundary=x", raw_form((MODEL[0].replace(b"model", b"Model"), b"m"))),
        ("multipart/form-data; boundary=x", raw_form()),
        ("multipart/form-data; boundary=x", raw_form(MODEL, end=b"")),
        ("multipart/form-data; boundary=x", raw_form((b"content-type: a/b", b"m"))),
        ("multipart/form-data; boundary=y", raw_form(MODEL)),
        ("multipart/form-data; boundary=x", raw_form(*[(*MODEL[:1], b"")] * 60)),
        ("multipart/form-data; boundary=x", raw_form((MODEL[0], b"m" * 70_000))),
        ("multipart/form-data", raw_form(MODEL)),
        ("application/json", b'{"model": "m"}'),
        ("application/x-www-form-urlencoded", b"model=m"),
        (
            "multipart/form-data; boundary=x",
            raw_form(MODEL, (b'content-disposition: form-data; name="stream"', b"maybe")),
        ),
    ],
)
def test_a_form_that_readers_may_take_differently_is_refused(
    gateway: Running, engine: Obliging, kind: str, body: bytes
) -> None:
    before = len(engine.seen)
    with gateway.client() as client:
        answer = client.post(api_paths.TRANSCRIPTIONS, content=body, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert len(engine.seen) == before


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/models", "/v1/models"),
        ("/v1/models/v1/models", None),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/api/chat", "/api/chat"),
        ("/v1/api/tags", "/api/tags"),
        ("/v1/tokenize", "/tokenize"),
        ("/nothing", None),
    ],
)
def test_a_base_url_that_is_not_quite_right_gets_a_hint(
    gateway: Running, path: str, meant: str | None
) -> None:
    with gateway.client() as client:
        answer = client.request("GET", gateway.url + path)
        base = client.get("/v1").json()["error"]["message"]
    assert "http://HOST:PORT/v1" in base
    if path == "/v1/models/v1/models":
        assert answer.status_code == 404
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    assert (f"meant is {meant}:" in error["message"]) is (meant is not None)


class Keeping(Engine):
    """An engine that keeps responses, and tells which requests came for them."""

    async def _answer(self, request: Seen, send: Any) -> None:
        whole = {"id": f"resp_{self.name}", "object": "response", "model": "m", "output": []}
        kind, content = b"application/json", json.dumps(whole)
        if request.body.get("stream"):
            kind = b"text/event-stream"
            event = {"type": "response.created", "response": whole | {"id": "resp_events"}}
            content = f"event: response.created\ndata: {json.dumps(event)}\n\n"
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": content.encode()})


def check_conversation(owner: Running, stranger: Running, name: str) -> None:
    """Only the key of a response goes on from it, and no key chooses the id of a response."""
    path, further = "/v1/responses", {"input": "go on", "previous_response_id": name}
    assert [owner.post(further, path=path).status_code for _ in range(3)] == [200] * 3
    refused = [stranger.post(further, path=path) for _ in range(3)]
    assert [answer.status_code for answer in refused] == [404] * 3
    assert {answer.json()["error"]["code"] for answer in refused} == {"response_not_found"}
    chosen = stranger.post({"input": "x", "request_id": name, "store": False}, path=path)
    assert chosen.status_code == 400


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stored_response_is_its_own_keys_and_at_its_own_replica(
    tmp_path: Path, workers: str
) -> None:
    home = directory.home(str(tmp_path / "home"))
    one, two = Keeping("one"), Keeping("two")
    entry = {"name": "m", "backend": "vllm"}
    with (
        serve(one) as first,
        serve(two) as second,
        run_gateway(
            home,
            None,
            *("--workers", workers),
            entries=[{**entry, "backend_url": [first, second], "routing": "round_robin"}],
        ) as gateway,
    ):
        stranger = Running(
            gateway.process,
            gateway.port,
            key_store.add(directory.keys_path(home), "stranger")[0],
            gateway.log,
        )
        path = "/v1/responses"
        wait_until(lambda: stranger.post({}, path="/v1/embeddings").status_code == 200)
        made = {gateway.post({"input": "hi"}, path=path).json()["id"] for _ in range(12)}
        assert made == {"resp_one", "resp_two"}
        events = gateway.post({"input": "hi", "stream": True}, path=path)
        kept = {"resp_one": one, "resp_two": two}
        for name, engine in kept.items():
            for _ in range(3):  # at any worker
                with gateway.client() as client:
                    assert client.get(f"{path}/{name}").json()["id"] == name
                    assert client.post(f"{path}/{name}/cancel").status_code == 200
                with stranger.client() as client:
                    for method, way in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
                        refused = client.request(method, f"{path}/{name}{way}")
                        assert refused.status_code == 404
                        assert refused.json()["error"]["code"] == "response_not_found"
            check_conversation(gateway, stranger, name)
            assert {seen.path for seen in engine.seen if name in seen.path} == {
                f"{path}/{name}",
                f"{path}/{name}/cancel",
            }
        with gateway.client() as client:
            assert client.get(f"{path}/resp_events").status_code == 200
            assert client.get(f"{path}/resp_other").status_code == 404
            assert client.get(f"{path}/..%2f..%2fpause").status_code == 404
            assert client.delete(f"{path}/resp_one").status_code == 200
    assert events.status_code == 200
    assert not {seen.path for seen in one.seen if "resp_two" in seen.path}
