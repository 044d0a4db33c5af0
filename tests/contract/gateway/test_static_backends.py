"""Servers of somebody else behind a gateway: their names, certificates, redirects and health."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc.state import directory
from tests.contract.gateway.engines import Engine, Raw, Seen, read_request, serve
from tests.contract.gateway.programs import (
    run_gateway,
    save_replica,
    save_service,
    wait_until,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    import httpx

    from gateway_lite.http.listeners import Tls
    from tests.contract.gateway.programs import Running

SERVED = "openai/gpt-oss-20b"


class Vllm(Engine):
    """An engine that serves one model under its Hugging Face name, and refuses other names."""

    async def _answer(self, request: Seen, send: Any) -> None:
        known = [each["id"] for each in self.models]
        asked = request.body.get("model")
        if asked not in known:
            return await super()._whole(404, {}, send)
        if not request.body.get("stream"):
            content = json.dumps({"object": "chat.completion", "model": asked, "choices": []})
            return await self._say(b"application/json", content, send)
        event = {"model": asked, "choices": [{"index": 0, "delta": {"content": '"model":"x"'}}]}
        events = [json.dumps(event), json.dumps({"response": {"model": asked}}), "[DONE]"]
        return await self._say(
            b"text/event-stream", "".join(f"data: {each}\n\n" for each in events), send
        )

    async def _say(self, kind: bytes, content: str, send: Any) -> None:
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        # In pieces that are cut anywhere.
        half = len(content) // 2
        first = {"type": "http.response.body", "body": content[:half].encode(), "more_body": True}
        await send(first)
        await send({"type": "http.response.body", "body": content[half:].encode()})


def listed(*names: str, **more: Any) -> list[dict[str, Any]]:
    """Return a list of models as vLLM writes it."""
    return [
        {"id": name, "object": "model", "root": names[0], "parent": None, **more} for name in names
    ]


def models(gateway: Running) -> dict[str, dict[str, Any]]:
    """Return the gateway's list by name."""
    with gateway.client() as client:
        return {each["id"]: each for each in client.get("/v1/models").json()["data"]}


def readyz(gateway: Running) -> httpx.Response:
    with gateway.client() as client:
        return client.get("/readyz")


def names(answer: httpx.Response) -> list[str]:
    """Return the models that an answer or a stream names."""
    text = answer.text
    if not text.startswith("data: "):
        return [json.loads(text)["model"]]
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return [event.get("model") or event["response"]["model"] for event in events]


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ({}, listed(SERVED)),
        ({}, listed(SERVED, "second-name")),
        ({}, [*listed(SERVED), {"id": "adapter", "root": "a", "parent": SERVED}]),
        ({"served_model": SERVED}, [*listed("other:8b"), *listed(SERVED)]),
        ({"served_model": SERVED, "health": False}, listed(SERVED)),
    ],
    ids=["alone", "second name", "adapter", "told", "never asked"],
)
def test_a_server_is_asked_by_its_own_name_and_answers_by_the_gateways(
    home: Path, entry: dict[str, Any], known: list[dict[str, Any]]
) -> None:
    engine = Vllm(models=known)
    with (
        serve(engine) as url,
        run_gateway(home, {"gpt-oss-20b": url}, models={"gpt-oss-20b": entry}) as gateway,
    ):
        whole = gateway.post({"model": "gpt-oss-20b"})
        stream = gateway.post({"model": "gpt-oss-20b", "stream": True})

    assert names(whole) == ["gpt-oss-20b"]
    assert names(stream) == ["gpt-oss-20b"] * 2
    assert '\\"model\\":\\"x\\"' in stream.text
    assert stream.text.endswith("data: [DONE]\n\n")
    assert [seen.body["model"] for seen in engine.seen] == [SERVED] * 2
    assert engine.seen[0].body["messages"] == [{"role": "user", "content": "hi"}]


def test_a_name_that_the_server_lists_goes_on_byte_for_byte(home: Path) -> None:
    engine = Vllm(models=[*listed(SERVED), *listed("org/m:8b")])
    with serve(engine) as url, run_gateway(home, {"org/m:8b": url}) as gateway:
        answer = gateway.post({"model": "org/m:8b"})
        one = models(gateway)["org/m:8b"]
        with gateway.client() as client:
            shown = client.get("/v1/models/org/m:8b")
            tagged = client.post("/api/show", json={"model": "org/m:8b"})

    assert names(answer) == ["org/m:8b"]
    assert one["phase"] == "READY"
    assert (shown.status_code, tagged.status_code) == (200, 200)


def test_several_servers_of_one_name_each_have_their_own(home: Path) -> None:
    """Two addresses in one entry, a second entry, and a fallback that is a server of its own."""
    first, second = Vllm(models=listed("org/a")), Vllm(models=listed("org/b"))
    third, other = Vllm(models=listed("m")), Vllm(models=listed("org/other"))
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(each)) for each in (first, second, third, other)]
        entries: list[dict[str, Any]] = [
            {"name": "m", "backend": "vllm", "backend_url": urls[:2]},
            {"name": "m", "backend": "sglang", "backend_url": urls[2] + "/v1/"},
            {"name": "down", "backend": "vllm", "backend_url": "http://127.0.0.1:1"},
            {"name": "spare", "backend": "openai", "backend_url": urls[3]},
        ]
        entries[2]["fallback"] = ["spare"]
        gateway = stack.enter_context(
            run_gateway(home, entries=entries, policy={"routing": "round_robin"})
        )
        answers = [gateway.post({}) for _ in range(9)]
        spare = gateway.post({"model": "down"})
        told = models(gateway)

    assert [names(answer) for answer in answers] == [["m"]] * 9
    assert {answer.headers["x-gateway-backend"] for answer in answers} == {
        "m/static-0",
        "m/static-1",
        "m/static-2",
    }
    assert [len(each.seen) for each in (first, second, third)] == [3, 3, 3]
    assert names(spare) == ["spare"]
    assert spare.headers["x-gateway-model"] == "spare"
    assert told["m"]["replicas"] == {"ready": 3, "asked": 3}
    assert told["down"]["phase"] == "FAILED"


def test_readiness_follows_the_servers(home: Path) -> None:
    """Down at the start, up, loading, and a key that is refused; nothing is asked all the time."""
    engine = Engine(status=503)
    entries = [
        {"name": "m", "backend": "vllm"},
        {"name": "gone", "backend": "vllm", "backend_url": "http://nowhere.invalid:8000"},
    ]
    with serve(engine) as url:
        entries[0]["backend_url"] = url
        with run_gateway(home, entries=entries) as gateway:
            loading, first = readyz(gateway), models(gateway)
            engine.status = None
            wait_until(lambda: readyz(gateway).status_code == 200)
            ready, second = readyz(gateway), models(gateway)
            record = wait_until(
                lambda: [w for w in _warnings(home) if "gone" in w and "cannot be reached" in w]
            )

    assert (loading.status_code, loading.json()["ready"]) == (503, 0)
    assert (first["m"]["phase"], first["gone"]["phase"]) == ("LOADING", "FAILED")
    assert (ready.json()["ready"], ready.json()["models"]) == (1, 2)
    assert (second["m"]["phase"], second["m"]["replicas"]) == ("READY", {"ready": 1, "asked": 1})
    assert len(record) == 1
    assert not engine.seen


def _warnings(home: Path) -> tuple[str, ...]:
    (folder,) = (home / "gateways").iterdir()
    found = directory.load_gateway(home, folder.name)
    return () if found is None or found.reload is None else found.reload.warnings


def test_a_server_that_fails_its_probe_gets_no_request_while_another_serves(home: Path) -> None:
    up, down = Engine("up"), Engine("down", status=503)
    with serve(up) as one, serve(down) as two:
        entries = [{"name": "m", "backend": "vllm", "backend_url": [one, two]}]
        with run_gateway(home, entries=entries) as gateway:
            answers = [gateway.post({}) for _ in range(20)]

    assert {answer.json()["engine"] for answer in answers} == {"up"}
    assert not down.seen


def test_the_health_path_decides_where_it_is_named(home: Path) -> None:
    class Gated(Engine):
        async def _answer(self, request: Seen, send: Any) -> None:
            assert request.path == "/ready"
            await self._whole(200 if self.name == "well" else 500, {}, send)

    with serve(Gated("well")) as one, serve(Gated("ill")) as two:
        urls, health = {"well": one, "ill": two}, {"health": "/ready"}
        with run_gateway(home, urls, models={"well": health, "ill": health}) as gateway:
            told = models(gateway)

    assert {name: each["phase"] for name, each in told.items()} == {
        "well": "READY",
        "ill": "FAILED",
    }


@contextmanager
def redirecting(to: str, status: bytes = b"307") -> Iterator[Raw]:
    """Serve redirects, and keep what was sent."""

    def script(connection: socket.socket, number: int) -> None:
        del number
        while read_request(connection):
            line = b"HTTP/1.1 %b Moved\r\nlocation: %b\r\n" % (status, to.encode())
            connection.sendall(line + b"content-length: 0\r\n\r\n")

    engine = Raw(script)
    try:
        yield engine
    finally:
        engine.close()


@pytest.mark.parametrize("status", [b"301", b"302", b"307", b"308"])
def test_a_redirect_is_one_clear_error_and_leads_nowhere(home: Path, status: bytes) -> None:
    elsewhere = Engine()
    with serve(elsewhere) as other:
        to = other.replace("//", "//user:secret@") + "/v1/chat/completions?token=secret"
        with redirecting(to, status) as engine, run_gateway(home, {"m": engine.url}) as gateway:
            answer, stream = gateway.post({}), gateway.post({"stream": True})

    assert (answer.status_code, stream.status_code) == (502, 502)
    error = answer.json()["error"]
    assert error["code"] == "upstream_error"
    assert f"redirects ({status.decode()}) to {other}/v1/chat/completions" in error["message"]
    assert "backend_url" in error["message"]
    assert "secret" not in answer.text
    assert answer.headers["x-should-retry"] == "false"
    assert not elsewhere.seen


def test_a_private_certificate_is_trusted_by_its_own_entry_alone(home: Path, tls: Tls) -> None:
    """The key goes to the server that has shown the certificate, and to no other."""
    engine, known = Engine(secret="theirs"), home.parent / "ca.pem"
    known.write_text(Path(tls.cert).read_text())
    with serve(engine, tls=tls) as url:
        entry = {"backend": "vllm", "backend_url": url, "api_key_env": "THEIRS"}
        entries = [{"name": "m", "ca": "ca.pem", **entry}, {"name": "stranger", **entry}]
        with run_gateway(home, entries=entries, variables={"THEIRS": "theirs"}) as gateway:
            answer, refused = gateway.post({}), gateway.post({"model": "stranger"})
            told = models(gateway)

    assert answer.status_code == 200
    assert engine.seen[0].headers["authorization"] == "Bearer theirs"
    assert len(engine.seen) == 1
    assert refused.status_code == 502
    assert "certificate that is not trusted here" in refused.json()["error"]["message"]
    assert "'ca'" in refused.json()["error"]["message"]
    assert (told["m"]["phase"], told["stranger"]["phase"]) == ("READY", "FAILED")


def test_a_refused_key_of_a_server_is_named(home: Path) -> None:
    with serve(Engine(secret="theirs")) as url, run_gateway(home, {"m": url}) as gateway:
        answer, told = gateway.post({}), models(gateway)

    assert answer.status_code == 502
    assert "api_key_env" in answer.json()["error"]["message"]
    assert told["m"]["phase"] == "FAILED"


def test_models_under_their_names_are_served_as_modeltainer_writes_them(home: Path) -> None:
    """Its models.yaml, beside ``vllm serve openai/gpt-oss-20b`` of the same documents."""
    engine, small = Vllm(models=listed(SERVED)), Vllm(models=listed("gemma-3-1b-it-Q4_K_M.gguf"))
    with serve(engine) as url, serve(small) as other:
        file = home.parent / "models.yaml"
        text = (
            "models:\n"
            f'  gpt-oss-20b-it:\n    backend: vllm\n    backend_url: "{url}"\n'
            f'  gemma-3-1b-it:\n    backend: llamacpp\n    service_url: "{other}"\n'
            "    embeddings: true\n"
        )
        with run_gateway(home, text=text) as gateway:
            streams = [
                gateway.post({"model": name, "stream": True})
                for name in ("gpt-oss-20b-it", "gemma-3-1b-it")
            ]

    assert file.read_text() == text
    assert [stream.status_code for stream in streams] == [200, 200]
    assert [names(stream)[0] for stream in streams] == ["gpt-oss-20b-it", "gemma-3-1b-it"]


def test_the_context_window_is_told_where_clients_look_for_it(home: Path) -> None:
    """Of vLLM, of llama.cpp with what it serves, and of a service's replica; not told by others."""
    trained = {"id": "x.gguf", "meta": {"n_ctx_train": 131072}}
    engines = {
        "vllm": Engine(models=listed(SERVED, max_model_len=4096)),
        "llamacpp": Engine(
            models=[trained], props={"default_generation_settings": {"n_ctx": 2048}}
        ),
        "weights": Engine(models=[trained]),
        "router": Engine(models=[{"id": "router", "context_length": 512}, {"id": "b"}]),
        "silent": Engine(),
        "wrong": Engine(models=listed(SERVED, max_model_len="many")),
        "m": Engine(models=listed("m", max_model_len=1024)),
    }
    with ExitStack() as stack:
        urls = {name: stack.enter_context(serve(engine)) for name, engine in engines.items()}
        save_service(home)
        save_replica(home, urls.pop("m"))
        gateway = stack.enter_context(run_gateway(home, urls, policy={"aliases": {"gpt": "vllm"}}))
        told = wait_until(lambda: found if (found := models(gateway))["m"].get("meta") else None)
        with gateway.client() as client:
            shown = client.post("/api/show", json={"model": "llamacpp"}).json()
            running = client.get("/api/ps").json()["models"]

    expected = {"vllm": 4096, "gpt": 4096, "llamacpp": 2048, "weights": 131072, "router": 512}
    windows = {name: each.get("max_model_len") for name, each in told.items()}
    assert windows == {**expected, "m": 1024, "silent": None, "wrong": None}
    assert told["gpt"]["context_length"] == told["gpt"]["context_window"] == 4096
    assert told["gpt"]["meta"]["n_ctx_train"] == 4096
    assert "meta" not in told["silent"]
    assert shown["model_info"]["llm.context_length"] == 2048
    assert shown["parameters"] == "num_ctx 2048"
    assert {each["name"]: each.get("context_length") for each in running}["vllm"] == 4096
