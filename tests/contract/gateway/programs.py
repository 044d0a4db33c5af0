"""The gateway and the sidecar as the programs they are, and a state directory for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from hpc.keys import store as key_store
from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.state import directory, files

if TYPE_CHECKING:
    from collections.abc import Iterator

REPO = Path(__file__).parents[3]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PATIENCE_S = 60.0
"""After which a thing that must come about is taken for hung; no statement on how fast it is."""


def wait_until(condition: Any, timeout: float = PATIENCE_S) -> Any:
    """Return what a condition gives as soon as it is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} s")


def environment() -> dict[str, str]:
    """Return an environment that finds this repository and no user's configuration."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HPC_SERVE", "XDG_"))}
    return {**kept, "PYTHONPATH": str(REPO), "XDG_CONFIG_HOME": "/nonexistent"}


@dataclass
class Running:
    """A program that serves."""

    process: subprocess.Popen[bytes]
    port: int
    key: str
    log: Path
    scraper: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.Client:
        """Return a client that has the key."""
        auth = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(
            base_url=self.url, headers=auth, trust_env=False, timeout=PATIENCE_S, **more
        )

    def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
        """Ask once."""
        with self.client() as client:
            return client.post(path, json={**BODY, **body})

    def metrics(self) -> str:
        """Return the metrics of all keys, as a scraper sees them."""
        auth = {"authorization": f"Bearer {self.scraper}"}
        url = self.url + "/metrics"
        answer = httpx.get(url, headers=auth, trust_env=False, timeout=PATIENCE_S)
        assert answer.status_code == httpx.codes.OK, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.text

    def terminate(self, timeout: float = PATIENCE_S) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def workers(gateway: Running) -> list[int]:
    """Return the processes below the gateway's own."""
    pid = gateway.process.pid
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def _program(argv: list[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway_lite", *argv], stdout=out, stderr=out, env=env, cwd=REPO
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)


@contextlib.contextmanager
def run_gateway(
    home: Path,
    backends: dict[str, str] | None = None,
    *more: str,
    policy: dict[str, Any] | None = None,
    models: dict[str, dict[str, Any]] | None = None,
) -> Iterator[Running]:
    """Run a gateway over a state directory and static backends by model.

    Args:
        home: the state directory.
        backends: address by model.
        more: arguments.
        policy: the section ``gateway`` of models.yaml.
        models: further keys of their entries, by model.
    """
    file = home.parent / "models.yaml"
    entries = [
        {"name": name, "backend": "vllm", "backend_url": url, **(models or {}).get(name, {})}
        for name, url in (backends or {}).items()
    ]
    section = {} if policy is None else {"gateway": policy}
    file.write_text(json.dumps({"version": 1, "models": entries, **section}))
    key, _ = key_store.add(directory.keys_path(home), "tester")
    scraper, _ = key_store.add(directory.keys_path(home), "scraper", metrics=True)
    log = home.parent / "gateway.log"
    argv = ["run", "--home", str(home), "--models", str(file), "--port", "0", *more]
    with _program(argv, log, environment()) as process:

        def port() -> int | None:
            record = directory.load_gateway(home, socket.gethostname())
            assert process.poll() is None, log.read_text()
            return record.port if record and record.pid == process.pid else None

        yield Running(process, wait_until(port), key, log, scraper)


@contextlib.contextmanager
def run_sidecar(folder: Path, upstream: list[str], *more: str) -> Iterator[Running]:
    """Run a sidecar in front of an engine."""
    secret = folder / "secret"
    files.write_text(secret, "the-secret\n")
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    argv = ["sidecar", *upstream, "--secret-file", str(secret), "--ready-file", str(ready), *more]
    env = {**environment(), "ENGINE_KEY": "engine-key"}
    log = folder / "sidecar.log"
    with _program(argv, log, env) as process:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Running(process, json.loads(ready.read_text())["port"], "the-secret", log)


def save_service(home: Path, name: str = "m", replicas: int = 1) -> None:
    """Record a service that was submitted."""
    spec = ServiceSpec(name=name, engine="llamacpp", server="llama-server", model="/m.gguf")
    directory.save_spec(home, replace(spec, replicas=replicas))


def save_replica(
    home: Path, url: str, *, number: int = 0, phase: Phase = Phase.READY, **more: Any
) -> str:
    """Record a replica as its node would; returns its secret."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    plain = Endpoint(
        service="m",
        replica=number,
        model="m",
        host=host,
        port=int(port),
        phase=phase,
        job_id="1",
        ends_at=None,
        # Nobody beats for it; further ahead it is doubted, as it is when it is too long ago.
        beat_at=time.time() + directory.STALE_S - 5,
    )
    directory.save_endpoint(home, replace(plain, **more))
    return directory.load_secret(home, "m", number) or directory.new_secret(home, "m", number)


@contextlib.contextmanager
def run_over(home: Path, urls: list[str], *more: str) -> Iterator[Running]:
    """Run a gateway over replicas of one service."""
    save_service(home, replicas=len(urls))
    for number, url in enumerate(urls):
        save_replica(home, url, number=number)
    with run_gateway(home, None, *more) as running:
        yield running
