"""A gateway that runs for the benchmark, and the engine behind it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench import processes
from scripts.bench.install import HERE
from scripts.bench.peers import Peer

PROJECT = Path(__file__).resolve().parents[2]
SMALL = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "hi"}]})
POLL_S = 0.01
LOAD_S = 120


@dataclass(frozen=True)
class Place:
    """Where a run happens.

    Attributes:
        work: its folder.
        gateway_core: the core of the gateways; None does not pin.
        load_core: the core of engine and clients.
        mock: the engine's port.
    """

    work: Path
    gateway_core: int | None
    load_core: int | None
    mock: int


class GatewayError(Exception):
    """A gateway did not start."""


def free_port() -> int:
    """Return a port that nobody has just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Engine:
    """The engine that costs nothing, running."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stack = ExitStack()
        log = self._stack.enter_context((place.work / "engine.log").open("ab"))
        argv = [sys.executable, "-m", "scripts.bench.engine", str(place.mock)]
        self._process = processes.spawn(argv, log, PROJECT, core=place.load_core, env={})
        self._stack.callback(processes.stop, self._process)

    def wait(self) -> Engine:
        """Wait until it answers."""
        end = time.monotonic() + 10
        while True:
            try:
                self.set("")
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self._stack.close()
                    raise
                time.sleep(POLL_S)
            else:
                return self

    def close(self) -> None:
        """End it."""
        self._stack.close()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._place.mock}"

    def set(self, conduct: str) -> None:
        """Choose how it answers, and forget what it counted."""
        self._get("/_reset")
        self._get(f"/_ctl?{conduct}")

    def stats(self) -> dict[str, Any]:
        """Return what it counted."""
        return self._get("/_stats")

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used."""
        return processes.cpu_s(self._process.pid)

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until nothing is under way, so that an overloaded gateway is over it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)
            told = self.stats()
            if told["started"] <= told["finished"] + told["aborted"] + told["raced"]:
                return

    def _get(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._place.mock, timeout=10)
        try:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()


class Gateway:
    """One gateway, or with no peer the way straight to the engine."""

    def __init__(self, name: str, peer: Peer | None, place: Place) -> None:
        self.name = name
        self._peer = peer or Peer(())
        self._place = place
        self.port = place.mock if peer is None else free_port()
        self._spare = free_port()
        self.headers = self._peer.headers
        self._process: subprocess.Popen[bytes] | None = None
        for file, text in self._peer.files.items():
            (place.work / file).write_text(self._filled(text))

    def _filled(self, text: str) -> str:
        ports = {"PORT": self.port, "SPARE": self._spare, "MOCK": self._place.mock}
        for name, value in {**ports, "WORK": self._place.work, "HERE": HERE}.items():
            text = text.replace("{" + name + "}", str(value))
        return text

    @property
    def runs(self) -> bool:
        """Whether there is a process to be measured."""
        return self._process is not None

    def start(self) -> float:
        """Start it; return the seconds from there to its first good answer.

        Raises:
            GatewayError: it ended, or gave no good answer in time.
        """
        if not self._peer.argv:
            return 0.0
        argv = [self._filled(word) for word in self._peer.argv]
        env = {name: self._filled(value) for name, value in self._peer.env.items()}
        core, work = self._place.gateway_core, self._place.work
        begun = time.monotonic()
        with (work / f"{self.name}.log").open("ab") as log:
            try:
                process = processes.spawn(argv, log, work, core=core, env=env)
            except OSError as error:
                raise GatewayError(f"{argv[0]}: {error.strerror}; see --install") from error
        self._process, status = process, None
        while time.monotonic() - begun < self._peer.wait_s and process.poll() is None:
            status = self.ask()
            if status == 200:
                return time.monotonic() - begun
            time.sleep(POLL_S)
        self.stop()
        raise GatewayError(f"no good answer (last status {status}); see {work}/{self.name}.log")

    def ask(self) -> int | None:
        """Ask once; return the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        headers = {"Content-Type": "application/json"}
        headers |= dict(line.split(": ", 1) for line in self.headers)
        try:
            connection.request("POST", "/v1/chat/completions", SMALL, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return None
        else:
            return answer.status
        finally:
            connection.close()

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            processes.stop(self._process)
            self._process = None

    def cpu_s(self) -> float:
        """Return the CPU seconds it has used."""
        return processes.cpu_s(self._process.pid) if self._process else 0.0

    def rss_mb(self) -> float:
        """Return the memory it holds."""
        return processes.rss_mb(self._process.pid) if self._process else 0.0

    def load(self, *words: str) -> dict[str, Any]:
        """Make a load on it; return what came of it."""
        command, *more = words
        url = f"http://127.0.0.1:{self.port}/v1"
        mock = f"http://127.0.0.1:{self._place.mock}"
        argv = [sys.executable, "-m", "scripts.bench.load", command, url, "--mock", mock, *more]
        for line in self.headers:
            argv += ["--header", line]
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=LOAD_S,
                cwd=PROJECT,
                check=False,
                preexec_fn=lambda: processes.pin(self._place.load_core),
            )
            told: dict[str, Any] = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return {"error": f"not over in {LOAD_S} s"}
        except ValueError:
            return {"error": (done.stdout + done.stderr)[-600:]}
        return told
