"""What clients get: answers, errors in OpenAI's form, names of requests."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from hpc.keys import store as key_store
from hpc.state import directory
from tests.contract.gateway.engines import Engine, frame, serve
from tests.contract.gateway.programs import BODY, PATIENCE_S, Running, run_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return one engine for all tests here."""
    return Engine()


@pytest.fixture(scope="module")
def shared(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one gateway for all tests here."""
    home = directory.home(str(tmp_path_factory.mktemp("shared") / "home"))
    with serve(engine) as url, run_gateway(home, {"m": url}) as running:
        yield running


@pytest.fixture
def gateway(shared: Running, engine: Engine) -> Running:
    """Return the gateway, whose engine has seen nothing yet."""
    engine.seen.clear()
    engine.go.clear()
    return shared


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of an answer, whose form is checked."""
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return error


def test_pages_for_browsers_and_probes_are_open_and_tell_strangers_nothing(
    gateway: Running,
) -> None:
    for path in ("/healthz", "/health", "/dashboard", "/docs", "/openapi.json"):
        assert httpx.get(gateway.url + path, trust_env=False).status_code == 200, path
    for headers in ({}, {"authorization": "Bearer hs-wrong"}):
        ready = httpx.get(gateway.url + "/readyz", headers=headers, trust_env=False)
        assert (ready.status_code, ready.json()) == (200, {"status": "ok"})
    for path in ("/version", "/metrics", "/v1/models", "/v1/models/m", "/nothing", "/docs/x"):
        response = httpx.get(gateway.url + path, trust_env=False)
        assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    response = httpx.post(gateway.url + "/v1/chat/completions", json=BODY, trust_env=False)
    assert response.status_code == 401


@pytest.mark.parametrize("value", ["Bearer", "Bearer x", "Basic {key}", "{key}"])
def test_a_key_counts_only_as_a_bearer_token(gateway: Running, value: str) -> None:
    headers = {"authorization": value.format(key=gateway.key)}
    response = httpx.get(gateway.url + "/v1/models", headers=headers, trust_env=False)
    assert response.status_code == 401


def test_plain_pages(gateway: Running) -> None:
    with gateway.client() as client:
        assert client.get("/readyz").json() == {"status": "ok", "models": 1, "ready": 1}
        assert client.get("/version").json()["name"] == "hpc-serve"
        models = client.get("/v1/models").json()
        assert [model["id"] for model in models["data"]] == ["m"]
        assert client.get("/v1/models/m").json()["phase"] == "READY"
        assert error_of(client.get("/v1/models/other"))["code"] == "model_not_found"
        assert error_of(client.get("/nothing"))["code"] == "unknown_url"
        refused = client.get("/v1/chat/completions")
        assert (refused.status_code, error_of(refused)["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_an_answer_passes_through(gateway: Running, engine: Engine, path: str) -> None:
    response = gateway.post({"temperature": 0.5}, path)
    assert response.status_code == 200
    assert response.json()["engine"] == "engine"
    assert response.headers["x-gateway-backend"] == "m"
    assert engine.seen[0].path == path
    assert engine.seen[0].body == {**BODY, "temperature": 0.5}


def test_the_engine_never_sees_the_clients_key(gateway: Running, engine: Engine) -> None:
    gateway.post({})
    assert gateway.key not in str(engine.seen[0].headers)
    assert "authorization" not in engine.seen[0].headers


@pytest.mark.parametrize(
    ("given", "kept"), [("my-id.1", True), ("bad id", False), ("x" * 129, False), (None, False)]
)
def test_requests_have_names(
    gateway: Running, engine: Engine, given: str | None, *, kept: bool
) -> None:
    headers = {} if given is None else {"x-request-id": given}
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=BODY, headers=headers)
    name = answer.headers["x-request-id"]
    assert engine.seen[0].headers["x-request-id"] == name
    assert (name == given) is kept
    assert len(name) >= 7


def test_an_engines_own_error_passes_through(gateway: Running) -> None:
    response = gateway.post({"status": 422})
    assert (response.status_code, response.headers["retry-after"]) == (422, "7")
    assert response.json()["engine"] == "engine"


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'"m"', None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model":""}', "model"),
        (b'{"model":7}', "model"),
    ],
)
def test_what_is_no_request_is_refused(gateway: Running, content: bytes, param: str | None) -> None:
    with gateway.client() as client:
        response = client.post("/v1/chat/completions", content=content)
    assert (response.status_code, error_of(response)["param"]) == (400, param)


def test_an_unknown_model_is_not_found(gateway: Running) -> None:
    response = gateway.post({"model": "other"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


def test_a_key_may_be_for_some_models_only(home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url, "n": url}) as gateway:
        narrow, _ = key_store.add(directory.keys_path(home), "narrow", models=("n",))
        limited = Running(gateway.process, gateway.port, narrow, gateway.log)
        wait = [limited.post({"model": "n"}).status_code for _ in range(1)]
        while wait[-1] == 401 and len(wait) < 200:
            wait.append(limited.post({"model": "n"}).status_code)
        assert wait[-1] == 200
        refused = limited.post({"model": "m"})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "model_not_allowed")
        assert limited.post({"model": "unknown"}).status_code == 403
        with limited.client() as client:
            assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["n"]
            assert client.get("/v1/models/m").status_code == 403


def test_a_request_that_is_too_large_is_refused_before_it_is_sent(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as sock:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}"
            "\r\ncontent-length: 999999999\r\n\r\n"
        )
        sock.sendall(head.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer


def test_a_stream_passes_through_byte_for_byte(gateway: Running) -> None:
    response = gateway.post({"stream": True, "n": 5})
    assert response.content == b"".join(frame(n) for n in range(5)) + b"data: [DONE]\n\n"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


def test_a_stream_is_never_held_back(gateway: Running, engine: Engine) -> None:
    """The engine sends its second frame only when the client has the first."""
    with (
        gateway.client() as client,
        client.stream(
            "POST", "/v1/chat/completions", json={**BODY, "stream": True, "hold": True}
        ) as response,
    ):
        parts = response.iter_raw()
        assert next(parts) == frame(0)
        engine.go.set()
        assert b"".join(parts).startswith(frame(1))


def test_the_openai_package_streams(gateway: Running) -> None:
    with openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0, timeout=PATIENCE_S
    ) as client:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "t0t1t2"
        assert [model.id for model in client.models.list()] == ["m"]
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="x", messages=[])
        assert caught.value.code == "model_not_found"


def test_a_stream_that_breaks_says_so_and_ends(gateway: Running) -> None:
    with openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0, timeout=PATIENCE_S
    ) as client:
        stream = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            extra_body={"n": 9, "die": 2},
        )
        got: list[str | None] = []
        with pytest.raises(openai.APIError, match="broke off in mid-stream"):
            got.extend(chunk.choices[0].delta.content for chunk in stream)
    raw = gateway.post({"stream": True, "n": 9, "die": 2})
    assert raw.content.startswith(frame(0) + frame(1))
    assert raw.content.count(b"t0") == 1
    assert raw.content.endswith(b'"code":"upstream_error"}}\n\ndata: [DONE]\n\n')


def test_no_log_holds_a_key_or_a_prompt(home: Path) -> None:
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        gateway.post({"messages": [{"role": "user", "content": "a-secret-prompt"}], "die": 0})
        gateway.post({"stream": True, "n": 3, "die": 1})
        assert gateway.terminate() == 0
    log = gateway.log.read_text()
    assert gateway.key not in log
    assert "a-secret-prompt" not in log
    assert "broke off" in log
