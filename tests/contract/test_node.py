"""One replica's life on this machine: a real engine, a real sidecar, and every way to end."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx
import pytest

from hpc.model import Endpoint, Phase, ServiceSpec
from hpc.peer_proof import NotProved
from hpc.processes import by_pid
from hpc.state import directory
from tests.contract.gateway.programs import proving_transport
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "examples" / "demo-model" / "demo-f16.gguf"
SERVE = """
import logging, pathlib, sys
from hpc.node.replica import serve
logging.basicConfig(level=logging.INFO)
serve(pathlib.Path(sys.argv[1]), "demo", 0)
"""
QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "Who wrote Emma?"}]}

pytestmark = pytest.mark.engine


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI an engine that is not there is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def spec() -> ServiceSpec:
    named = os.environ.get("HPC_SERVE_TEST_LLAMACPP_PYTHON")
    if not named and importlib.util.find_spec("llama_cpp") is None:
        unavailable("llama-cpp-python is not installed: pip install '.[llamacpp]'")
    return ServiceSpec(
        name="demo",
        engine="llamacpp",
        server="llama-cpp-python",
        model=str(MODEL),
        container="none",
        python=named,
        load_timeout_s=60,
    )


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for does not."""
    return by_pid.identity(pid) is not None


def until(
    holds: Callable[[], object], told: Callable[[], str], seconds: float = PATIENCE_S
) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)


def children(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def engines(path: Path) -> list[int]:
    """Return the engines that have a path among their variables, as model or as folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        leash = b"leash.py" in words
        if b"gguf_api_server" in words and str(path).encode() in words and not leash:
            found.append(int(entry.name))
    return found


def folders() -> list[Path]:
    return [path for path in Path("/tmp").glob("hpc-serve-*") if (path / "owner").exists()]


@dataclass
class Node:
    """A process that runs one replica, as a job would."""

    root: Path
    process: subprocess.Popen[bytes]

    def said(self) -> Endpoint:
        """Return what the replica last said of itself."""
        found = directory.load_endpoint(self.root, "demo", 0)
        assert found is not None, self.told()
        return found

    def told(self) -> str:
        """Return all logs, for a test that fails."""
        logs = [*self.root.glob("node.log"), *self.root.glob("services/demo/replicas/0/*.log")]
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in logs)

    def until(self, phase: Phase, *, after: float = 0.0) -> Endpoint:
        """Wait for a phase that begins after a time."""

        def there() -> bool:
            found = directory.load_endpoint(self.root, "demo", 0)
            return (
                found is not None
                and found.phase is phase
                and found.phases.get(phase.value, 0) > after
            )

        until(there, self.told)
        return self.said()

    def family(self) -> dict[str, int]:
        """Return the engine's and the sidecar's process id."""
        names = {"gguf_api_server": "engine", "gateway_lite": "sidecar"}
        found: dict[str, int] = {}
        for pid in children(self.process.pid):
            line = Path(f"/proc/{pid}/cmdline").read_text()
            pid = next(iter(children(pid)), pid) if "leash.py" in line else pid  # noqa: PLW2901
            found |= {name: int(pid) for mark, name in names.items() if mark in line}
        return found

    def folder(self) -> Path:
        """Return its private folder."""
        mine = f"{self.process.pid} "
        found = [path for path in folders() if (path / "owner").read_text().startswith(mine)]
        assert len(found) == 1
        return found[0]

    def secret(self) -> str | None:
        """Return the sidecar's key, or None."""
        return directory.load_secret(self.root, "demo", 0)

    def ask(self, key: str | None) -> httpx.Response:
        """Ask a question through the sidecar."""
        said = self.said()
        url = f"http://127.0.0.1:{said.port}/v1/chat/completions"
        if key is None:
            return httpx.post(url, json=QUESTION, timeout=PATIENCE_S)
        with httpx.Client(transport=proving_transport(key, said.port, said.certificate)) as client:
            return client.post(url, json=QUESTION, timeout=PATIENCE_S)

    def end(self) -> int:
        """Ask it to end, and return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path, spec: ServiceSpec) -> Iterator[Callable[..., Node]]:
    root = directory.home(str(tmp_path / "home"))
    started: list[Node] = []

    def begin(model: Path = MODEL, *, tls: bool = False) -> Node:
        directory.save_spec(root, replace(spec, model=str(model), replica_tls=tls))
        hidden = ("SLURM_", "SUBMITIT_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        with (root / "node.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(root)],
                cwd=PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(Node(root, child))
        return started[-1]

    yield begin
    for node in started:
        family = node.family().values() if node.process.poll() is None else ()
        node.process.kill()
        node.process.wait()
        for pid in family:
            by_pid.stop(by_pid.identity(pid) or "", grace_s=0)


def test_it_serves_until_told_to_end_and_leaves_nothing(start: Callable[..., Node]) -> None:
    node = start()
    said = node.until(Phase.READY)
    assert list(said.phases) == ["STARTING", "LOADING", "WARMING", "READY"]
    assert (said.host, said.slots, said.cause) == ("127.0.0.1", 1, None)
    assert node.ask(None).status_code == 401
    with pytest.raises(NotProved):
        node.ask("wrong")
    answer = node.ask(node.secret())
    assert "Jane Austen" in answer.json()["choices"][0]["message"]["content"]
    family, folder, secret = node.family(), node.folder(), node.secret()
    assert set(family) == {"engine", "sidecar"}
    assert engines(folder) == [family["engine"]]
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in family.values()]
    assert secret is not None
    assert not any(secret in line for line in lines)
    assert node.end() == 0
    assert node.said().phase is Phase.STOPPED
    assert list(node.said().phases) == [*said.phases, "DRAINING", "STOPPED"]
    assert not any(runs(pid) for pid in family.values())
    assert not folder.exists()
    assert node.secret() is None
    with pytest.raises(httpx.ConnectError):
        node.ask(secret)
    assert secret not in node.told()


def test_with_tls_its_record_has_the_certificate_and_its_folder_the_key(
    start: Callable[..., Node],
) -> None:
    node = start(tls=True)
    said = node.until(Phase.READY)
    assert said.certificate is not None
    assert (node.folder() / "sidecar.key").stat().st_mode & 0o777 == 0o600
    assert node.ask(node.secret()).status_code == 200
    with pytest.raises(httpx.RemoteProtocolError):
        node.ask(None)
    assert node.end() == 0


@pytest.mark.parametrize("victim", ["engine", "sidecar"])
def test_what_dies_under_it_is_started_again(start: Callable[..., Node], victim: str) -> None:
    node = start()
    first = node.until(Phase.READY)
    old, secret = node.family(), node.secret()
    os.kill(old[victim], signal.SIGKILL)
    again = node.until(Phase.READY, after=first.phases["READY"])
    assert again.phases["STARTING"] > first.phases["READY"]
    assert node.process.poll() is None
    new = node.family()
    assert not set(old.values()) & set(new.values())
    assert not any(runs(pid) for pid in old.values())
    assert node.secret() != secret
    assert node.ask(node.secret()).status_code == 200
    assert node.end() == 0


def test_an_engine_that_keeps_dying_is_given_up(start: Callable[..., Node]) -> None:
    node = start()
    ready = 0.0
    for _ in range(4):
        ready = node.until(Phase.READY, after=ready).phases["READY"]
        os.kill(node.family()["engine"], signal.SIGKILL)
    found = node.until(Phase.FAILED)
    assert found.cause
    assert node.process.wait(PATIENCE_S) == 1
    assert node.secret() is None


def test_an_engine_that_does_not_start_says_why(start: Callable[..., Node], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"this is no model" * 100)
    node = start(garbage)
    assert node.process.wait(PATIENCE_S) == 1, node.told()
    found = node.said()
    assert found.phase is Phase.FAILED
    assert found.cause is not None
    assert "garbage.gguf" in found.cause
    assert "\n" not in found.cause
    assert "READY" not in found.phases
    assert node.secret() is None
    assert engines(garbage) == []


def test_a_model_that_is_missing_is_named(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start(tmp_path / "gone.gguf")
    assert node.process.wait(PATIENCE_S) == 1, node.told()
    found = node.said()
    assert (found.phase, found.cause) == (
        Phase.FAILED,
        f"the model {tmp_path}/gone.gguf of 'demo' is not there",
    )
    assert node.secret() is None


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.LOADING])
def test_it_can_be_ended_before_it_is_ready(start: Callable[..., Node], phase: Phase) -> None:
    node = start()
    until(lambda: directory.load_endpoint(node.root, "demo", 0), node.told)
    until(lambda: phase.value in node.said().phases, node.told)
    folder = node.folder()
    assert node.end() == 0, node.told()
    assert node.said().phase is Phase.STOPPED
    until(lambda: not engines(folder), node.told)
    assert not folder.exists()
    assert node.secret() is None


def test_nothing_outlives_a_node_process_that_is_killed(start: Callable[..., Node]) -> None:
    node = start()
    node.until(Phase.READY)
    family, folder = node.family(), node.folder()
    node.process.kill()
    node.process.wait()
    until(lambda: not any(runs(pid) for pid in family.values()), lambda: str(family))
    assert folder.exists()
    killed = node.said().phases["READY"]
    heir = start()
    heir.until(Phase.READY, after=killed)
    assert not folder.exists()
    assert heir.folder().exists()
    assert heir.ask(heir.secret()).status_code == 200
    assert heir.end() == 0


def test_a_service_that_nobody_asked_for_is_refused(tmp_path: Path, spec: ServiceSpec) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"there is no service 'demo' in {tmp_path}" in done.stderr
