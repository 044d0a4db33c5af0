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

import httpcore
import httpx

from gateway_lite.upstream.pool import tls_context
from hpc.keys import store as key_store
from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.node.certificate import make_certificate
from hpc.peer_proof import GatewayHandshake
from hpc.state import directory, files
from tests.contract.gateway.engines import SECRETS

# Exported by these aliases: the modules beside this one take both from it, as tools of one box.
from tests.waits import PATIENCE_S as PATIENCE_S  # noqa: PLC0414
from tests.waits import wait_until as wait_until  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPO = Path(__file__).parents[3]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


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
    sidecar: bool = False
    certificate: str | None = None
    scraper: str = ""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **more: Any) -> httpx.Client:
        """Return a client that has the key."""
        auth = {"authorization": f"Bearer {self.key}"}
        if self.sidecar:
            more["transport"] = proving_transport(self.key, self.port, self.certificate)
            auth = {}
        return httpx.Client(
            base_url=self.url, headers=auth, trust_env=False, timeout=PATIENCE_S, **more
        )

    def connect(self, timeout: float = PATIENCE_S) -> socket.socket:
        """Return a connection on which requests may be sent; a sidecar's has proved itself."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        if self.certificate is not None:
            sock = tls_context(self.certificate).wrap_socket(sock)
        if self.sidecar:
            prove(sock.sendall, sock.recv, self.key, self.port)
        return sock

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


def prove(
    send: Callable[[bytes], object], receive: Callable[[int], bytes], secret: str, port: int
) -> None:
    """Do the gateway's part of the handshake on a new connection to a sidecar."""
    handshake = GatewayHandshake(secret, "127.0.0.1", port)
    send(handshake.request)
    while not handshake.done:
        if said := handshake.feed(receive(65536)):
            send(said)


class _Proving(httpcore.SyncBackend):
    """Connections of httpx that prove themselves to a sidecar."""

    def __init__(self, secret: str, port: int, certificate: str | None) -> None:
        super().__init__()
        self._secret, self._port, self._certificate = secret, port, certificate

    def connect_tcp(self, *args: Any, **more: Any) -> httpcore.NetworkStream:
        stream = super().connect_tcp(*args, **more)
        if self._certificate is not None:
            stream = stream.start_tls(tls_context(self._certificate))
        try:
            prove(stream.write, stream.read, self._secret, self._port)
        except BaseException:
            stream.close()
            raise
        return stream


def proving_transport(
    secret: str, port: int, certificate: str | None = None
) -> httpx.HTTPTransport:
    """Return a transport of httpx for a sidecar; its URLs are http also with TLS."""
    transport = httpx.HTTPTransport()
    transport._pool = httpcore.ConnectionPool(network_backend=_Proving(secret, port, certificate))
    return transport


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
    entries: list[dict[str, Any]] | None = None,
    text: str | None = None,
    variables: dict[str, str] | None = None,
) -> Iterator[Running]:
    """Run a gateway over a state directory and static backends by model.

    Args:
        home: the state directory.
        backends: address by model.
        more: arguments.
        policy: the section ``gateway`` of models.yaml.
        models: further keys of their entries, by model.
        entries: whole entries beside these.
        text: models.yaml as it is, in place of all that.
        variables: further variables of its environment.
    """
    file = home.parent / "models.yaml"
    every = [
        {"name": name, "backend": "vllm", "backend_url": url, **(models or {}).get(name, {})}
        for name, url in (backends or {}).items()
    ]
    section = {} if policy is None else {"gateway": policy}
    said = {"version": 1, "models": [*every, *(entries or ())], **section}
    file.write_text(json.dumps(said) if text is None else text)
    key, _ = key_store.add(directory.keys_path(home), "tester")
    # A state directory may have had a gateway before: names of keys are unique.
    known = len(key_store.load(directory.keys_path(home)))
    scraper, _ = key_store.add(directory.keys_path(home), f"scraper-{known}", metrics=True)
    log = home.parent / "gateway.log"
    argv = ["run", "--home", str(home), "--models", str(file), "--port", "0", *more]
    with _program(argv, log, {**environment(), **(variables or {})}) as process:

        def port() -> int | None:
            record = directory.load_gateway(home, socket.gethostname())
            assert process.poll() is None, log.read_text()
            return record.port if record and record.pid == process.pid else None

        yield Running(process, wait_until(port), key, log, scraper=scraper)


@contextlib.contextmanager
def run_sidecar(
    folder: Path,
    upstream: list[str],
    *more: str,
    tls: bool = False,
    key: str = "the-secret",
) -> Iterator[Running]:
    """Run a sidecar in front of an engine.

    Args:
        folder: folder for its files.
        upstream: arguments that name the engine.
        more: further arguments.
        tls: give it a certificate.
        key: the secret that both sides prove.
    """
    secret = folder / "secret"
    files.write_text(secret, key + "\n")
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    argv = ["sidecar", *upstream, "--secret-file", str(secret), "--ready-file", str(ready), *more]
    certificate = None
    if tls:
        made = make_certificate(folder)
        argv += ["--tls-cert", str(made.cert), "--tls-key", str(made.key)]
        certificate = made.pem
    env = {**environment(), "ENGINE_KEY": "engine-key"}
    log = folder / "sidecar.log"
    with _program(argv, log, env) as process:
        wait_until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        port = json.loads(ready.read_text())["port"]
        yield Running(process, port, key, log, sidecar=True, certificate=certificate)


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
    secret = directory.load_secret(home, "m", number) or directory.new_secret(home, "m", number)
    if phase is Phase.READY:
        SECRETS[int(port)] = secret
    return secret


@contextlib.contextmanager
def run_over(home: Path, urls: list[str], *more: str) -> Iterator[Running]:
    """Run a gateway over replicas of one service."""
    save_service(home, replicas=len(urls))
    for number, url in enumerate(urls):
        save_replica(home, url, number=number)
    with run_gateway(home, None, *more) as running:
        yield running
