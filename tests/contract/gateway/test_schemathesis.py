"""What the gateway does is what its OpenAPI document says, whatever fits the document is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gateway_lite.api.openapi.document import OPERATIONS, document
from tests.contract.gateway.engines import Engine, Seen, frame, serve
from tests.contract.gateway.programs import environment, run_gateway
from tests.contract.gateway.wire import unharmed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

SERVED = (
    *(("GET", path) for path in ("/healthz", "/readyz", "/version", "/metrics", "/v1/models")),
    ("GET", "/v1/models/{name}"),
    *(("POST", f"/v1/{what}") for what in ("chat/completions", "completions", "embeddings")),
    *(("POST", f"/v1/{what}") for what in ("responses", "rerank")),
)
FILES = tuple(way for way in OPERATIONS if way[1].startswith(("/v1/files", "/v1/batches")))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
EXAMPLES = 60
SEED = 20
CLI = "from schemathesis.cli import schemathesis; schemathesis()"


class Obliging(Engine):
    """An engine that takes anything and answers at once."""

    async def _answer(self, request: Seen, send: Any) -> None:
        kind, body = b"application/json", b'{"object": "chat.completion", "choices": []}'
        if request.body.get("stream"):
            kind, body = b"text/event-stream", frame(0) + b"data: [DONE]\n\n"
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def open_to_all(home: Path) -> Iterator[Running]:
    """Run a gateway with an obliging engine for the model that examples name."""
    with serve(Obliging()) as url, run_gateway(home, {"MODEL": url, "m": url}) as running:
        yield running


def run(front: Running, folder: Path, served: tuple[tuple[str, str], ...]) -> str:
    """Let schemathesis ask; return what it found, or nothing."""
    file = folder / "openapi.json"
    file.write_text(json.dumps(document(served)))
    options = {
        "url": front.url,
        "header": f"Authorization: Bearer {front.key}",
        "checks": ",".join(CHECKS),
        "phases": "examples,coverage,fuzzing",
        "max-examples": str(EXAMPLES),
        "seed": str(SEED),
        "request-timeout": "10",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    argv = [sys.executable, "-c", CLI, "run", str(file), *words, "--no-color"]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        env=environment(),
        check=False,
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-12000:]


@pytest.mark.parametrize("served", [SERVED, FILES], ids=["models", "files"])
def test_the_gateway_does_as_its_document_says(
    open_to_all: Running, tmp_path: Path, served: tuple[tuple[str, str], ...]
) -> None:
    found = run(open_to_all, tmp_path, served)

    assert not found, found
    unharmed(open_to_all)
