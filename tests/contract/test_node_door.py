"""A node at its own door: the first request of an engine, and a replica that is out of reach.

The engine is a stand-in; node process and sidecar are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpc.model import Phase, ServiceSpec
from hpc.processes import by_pid
from hpc.state import directory
from tests.contract.test_node import MODEL, PROJECT, Node
from tests.waits import PATIENCE_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STANDIN = PROJECT / "tests" / "fakes" / "engine.py"
QUICK = """
own_door.CHECK_EVERY_S = own_door.AGAIN_S = own_door.CHECK_PATIENCE_S = 0.1
own_door.SILENT_CHECKS, replica.TERM_DRAIN_S = 3, 1
"""
SERVE = f"""
import logging, pathlib, sys
from hpc.node import own_door, replica
{QUICK}
logging.basicConfig(level=logging.INFO)
replica.serve(pathlib.Path(sys.argv[1]), "demo", 0, program=sys.argv[2])
"""
"""The node's program, which asks itself more often."""


def program(folder: Path, name: str, *words: str) -> Path:
    """Return an executable that runs a Python file with the rest of its arguments."""
    path = folder / name
    line = " ".join(f"'{word}'" for word in (sys.executable, *words))
    path.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
    path.chmod(0o700)
    return path


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    root = directory.home(str(tmp_path / "home"))
    started: list[Node] = []

    def start(
        status: dict[str, int | str] | None = None, *, apptainer: str = "apptainer", **given: Any
    ) -> Node:
        said = {"STANDIN_STATUS": json.dumps(status or {}), "STANDIN_LOG": f"{tmp_path}/engine"}
        fields: dict[str, Any] = {"server": "llama-cpp-python", "engine": "llamacpp"}
        fields |= {"container": "none", "python": str(program(tmp_path, "python", str(STANDIN)))}
        directory.save_spec(
            root, ServiceSpec(name="demo", model=str(MODEL), env=said, **(fields | given))
        )
        hidden = ("SLURM_", "SUBMITIT_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        with (root / "node.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(root), apptainer],
                cwd=PROJECT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(Node(root, child))
        return started[-1]

    yield start
    for node in started:
        family = node.family().values() if node.process.poll() is None else ()
        node.process.kill()
        node.process.wait()
        for pid in family:
            by_pid.stop(by_pid.identity(pid) or "", grace_s=0)


def requests(tmp_path: Path) -> list[str]:
    """Return the requests that the stand-in saw."""
    lines = (tmp_path / "engine").read_text().splitlines()
    return [line for line in lines if line.startswith("POST")]


def test_it_is_ready_after_one_request_of_one_token(
    begin: Callable[..., Node], tmp_path: Path
) -> None:
    node = begin()
    said = node.until(Phase.READY)
    assert list(said.phases) == ["STARTING", "LOADING", "WARMING", "READY"]
    (asked,) = requests(tmp_path)
    path, body = asked.removeprefix("POST ").split(" ", 1)
    assert path == "/v1/completions"
    assert json.loads(body) == {"model": "demo", "prompt": "Hello", "max_tokens": 1}
    assert node.end() == 0


@pytest.mark.parametrize(
    "status",
    [
        {"/v1/completions": 404},
        {"/v1/completions": 501, "/v1/embeddings": 400},
    ],
)
def test_an_engine_without_text_is_ready_too(
    begin: Callable[..., Node], tmp_path: Path, status: dict[str, int | str]
) -> None:
    node = begin(status, replica_tls=True)
    node.until(Phase.READY)
    assert [line.split()[1] for line in requests(tmp_path)] == ["/v1/completions", "/v1/embeddings"]
    assert node.end() == 0


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        ("die", "the engine ended with RuntimeError: the first batch broke the kernel"),
        (500, "the engine failed at its first request: as the test has it"),
        (401, "the engine failed at its first request: the engine refuses the sidecar's key"),
    ],
)
def test_a_first_request_that_fails_is_the_cause(
    begin: Callable[..., Node], status: int | str, cause: str
) -> None:
    node = begin({"/v1/completions": status})
    assert node.process.wait(PATIENCE_S) == 1, node.told()
    said = node.said()
    assert (said.phase, said.cause) == (Phase.FAILED, cause)
    assert "READY" not in said.phases


def spoil_socket(node: Node) -> None:
    (node.folder() / "engine.sock").unlink()


def spoil_folder(node: Node) -> None:
    shutil.rmtree(node.folder())


def stop_engine(node: Node) -> None:
    for pid in Path("/proc").glob("[0-9]*"):
        words = (pid / "cmdline").read_bytes() if pid.exists() else b""
        if b"fakes/engine.py" in words and str(node.root.parent).encode() in environ(pid):
            os.kill(int(pid.name), signal.SIGSTOP)


def stop_sidecar(node: Node) -> None:
    os.kill(node.family()["sidecar"], signal.SIGSTOP)


def environ(pid: Path) -> bytes:
    try:
        return (pid / "environ").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("spoil", [spoil_socket, spoil_folder, stop_engine, stop_sidecar])
def test_a_replica_out_of_reach_starts_its_engine_again(
    begin: Callable[..., Node], spoil: Callable[[Node], None]
) -> None:
    node = begin()
    first = node.until(Phase.READY)
    spoil(node)
    again = node.until(Phase.READY, after=first.phases["READY"])
    assert again.phases["DRAINING"] > first.phases["READY"]
    assert "the engine runs, but cannot be reached: " in node.told()
    answer = node.ask(node.secret())
    assert answer.status_code == 200
    assert node.end() == 0
    wait_until(lambda: not list(Path("/proc").glob(f"{node.process.pid}")))


@pytest.mark.parametrize(
    ("version", "prefix"),
    [
        ("singularity-ce version 4.1.5", "SINGULARITYENV_"),
        ("apptainer version 1.3.4", "APPTAINERENV_"),
        ("a wrapper of the site", "APPTAINERENV_"),
    ],
)
def test_each_container_program_passes_the_engines_variables_on(
    begin: Callable[..., Node], tmp_path: Path, version: str, prefix: str
) -> None:
    stand_in = PROJECT / "tests" / "fakes" / "container.py"
    container = program(tmp_path, "singularity", str(stand_in), version, prefix)
    sandbox = tmp_path / "sandbox"
    (sandbox / "bin").mkdir(parents=True)
    program(sandbox / "bin", "vllm", str(STANDIN))
    node = begin(
        apptainer=str(container),
        container="apptainer",
        image=str(sandbox),
        server="vllm",
        engine="vllm",
    )
    node.until(Phase.READY)
    assert [line.split()[1] for line in requests(tmp_path)] == ["/v1/completions"]
    first = (tmp_path / "engine").read_text().splitlines()[0].removeprefix("started ")
    assert json.loads(first)["VLLM_API_KEY"]
    assert node.end() == 0
