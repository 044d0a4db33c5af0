"""The quickstart on this machine: from submit to a streamed answer, and nothing left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import openai
import pytest

from hpc.processes import by_pid
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "examples" / "demo-model" / "demo-f16.gguf"
MAIN = "import sys; from hpc.__main__ import main; sys.argv[0] = 'hpc-serve'; main()"
ADHOC = ("--engine", "llamacpp", "--container", "none", "--model", str(MODEL))
HEAVY = ("aiohttp", "httpx", "jinja2", "paramiko", "pydantic", "rich", "submitit", "yaml")


def unavailable(reason: str) -> NoReturn:
    """Skip on a developer's machine; in CI an engine that is not there is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class User:
    """Somebody who types hpc-serve on this machine."""

    home: Path

    def try_(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        hidden = ("HPC_SERVE_", "SLURM_", "SUBMITIT_", "XDG_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        own = {"HPC_SERVE_HOME": str(self.home), "HPC_SERVE_CLUSTER": "local"}
        python = os.environ.get("HPC_SERVE_TEST_LLAMACPP_PYTHON")
        return subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            env={
                **env,
                **own,
                "HOME": str(self.home.parent),
                "PYTHONPATH": str(PROJECT),
                **({"HPC_SERVE_PYTHON": python} if python else {}),
            },
            cwd=self.home.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def type(self, *words: str) -> str:
        """Run a command that succeeds; return what it printed."""
        done = self.try_(*words)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def read(self, *words: str) -> Any:
        """Run a command that succeeds and prints JSON; return that."""
        return json.loads(self.type(*words, "--json"))

    def processes(self) -> dict[int, str]:
        """Return what runs for this state directory, by process id."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            theirs = str(self.home) in words
            with contextlib.suppress(OSError, UnicodeDecodeError):  # closed, as a gateway's is
                theirs = theirs or str(self.home) in (path / "environ").read_bytes().decode()
            if theirs and words:
                found[int(path.name)] = words
        return found

    def folders(self) -> list[Path]:
        """Return the private folders on this machine of what runs for this state directory."""
        pids = {str(pid) for pid in self.processes()}
        owners = list(Path("/tmp").glob("hpc-serve-*/owner"))
        return [path.parent for path in owners if path.read_text().partition(" ")[0] in pids]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    made = User(tmp_path / "state")
    yield made
    for pid in made.processes():
        by_pid.stop(by_pid.identity(pid) or "", grace_s=0)


def test_help_loads_none_of_the_libraries() -> None:
    """A login node's file system is slow."""
    code = "import sys\nfrom hpc.cli import main\ntry:\n    main.run(sys.argv[1:])\n"
    code += f"except SystemExit:\n    print([n for n in {HEAVY} if n in sys.modules])\n"
    for words in (("--help",), ("--version",), ("submit", "--help"), ("gateway", "--help")):
        argv = [sys.executable, "-c", code, *words]
        done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", words


@pytest.fixture
def engine() -> None:
    named = os.environ.get("HPC_SERVE_TEST_LLAMACPP_PYTHON")
    if not named and importlib.util.find_spec("llama_cpp") is None:
        unavailable("llama-cpp-python is not installed: pip install '.[llamacpp]'")


@pytest.mark.engine
def test_the_quickstart(user: User, engine: None) -> None:
    submitted = user.read("submit", "demo", *ADHOC, "--wait")
    assert (submitted["name"], submitted["ready"]) == ("demo", 1)
    see_it_run(user, submitted["replicas"][0]["job"]["job_id"])
    again = user.try_("submit", "demo", *ADHOC)
    assert again.returncode == 2
    assert "the service 'demo' runs already" in again.stderr
    gateway = user.read("gateway", "start", "--port", "0")
    assert gateway["started"]
    assert not user.read("gateway", "start", "--port", "0")["started"]
    key = user.type("keys", "add", "--name", "me").strip()
    answered = ask(f"http://127.0.0.1:{gateway['port']}/v1", key)
    assert "Jane Austen" in "".join(answered)
    assert len(answered) > 1
    secret = (user.home / "services/demo/replicas/0/secret").read_text()
    see_no_secrets(user, secret, key)
    folders = user.folders()
    assert len(folders) == 1
    assert user.type("gateway", "stop") == "the gateway is stopped\n"
    assert user.type("gateway", "stop") == "no gateway runs on this machine\n"
    assert user.type("stop", "demo") == "stopped demo\n"
    assert user.read("ls") == []
    assert user.processes() == {}
    assert not folders[0].exists()
    assert list(user.home.rglob("secret")) == []
    assert list(user.home.glob("services/*")) == []
    assert list(user.home.glob("gateways/*/gateway.json")) == []


def see_it_run(user: User, job: str) -> None:
    """Look at a service that is ready with every command that looks."""
    assert [(one["name"], one["ready"]) for one in user.read("ls")] == [("demo", 1)]
    assert "demo" in user.type("ls")
    replica = user.read("status", "demo")["replicas"][0]
    assert (replica["phase"], replica["note"]) == ("READY", None)
    assert replica["status"]["state"] == "RUNNING"
    assert replica["endpoint"]["job_id"] == job
    assert "model demo is ready" in user.type("logs", "demo")
    assert "phase READY" in user.type("logs", "demo", "--source", "job")
    assert user.read("wait", "demo", "--timeout", "60")["ready"] == 1


def see_no_secrets(user: User, *secrets: str) -> None:
    """Look for secrets where others could see them, or a log would keep them."""
    told = "".join(user.processes().values())
    logs = "".join(path.read_text() for path in user.home.rglob("*log*") if path.is_file())
    assert len(logs) > 100
    for secret in secrets:
        assert secret
        assert secret not in told
        assert secret not in logs
    assert user.home.stat().st_mode & 0o777 == 0o700


def ask(url: str, key: str) -> list[str]:
    """Return the pieces of a streamed answer; a new key is known after two seconds at most."""
    deadline = time.monotonic() + PATIENCE_S
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=PATIENCE_S) as client:
        while True:
            try:
                stream = client.chat.completions.create(
                    model="demo",
                    messages=[{"role": "user", "content": "Who wrote Emma?"}],
                    stream=True,
                )
                return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
            except openai.AuthenticationError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


@pytest.mark.engine
def test_a_model_that_does_not_load_fails_the_wait_and_can_be_tried_again(
    user: User, engine: None, tmp_path: Path
) -> None:
    garbage = tmp_path / "demo.gguf"
    garbage.write_bytes(b"this is no model" * 100)
    words = ("submit", "demo", *ADHOC[:-1], str(garbage), "--wait")
    done = user.try_(*words)
    assert done.returncode == 6
    assert "replica 0 of 'demo' failed: " in done.stderr
    assert str(garbage) in done.stderr
    assert "Traceback" not in done.stderr
    assert user.read("status", "demo")["replicas"][0]["phase"] == "FAILED"
    garbage.write_bytes(MODEL.read_bytes())
    assert "demo is ready: 1 replica(s)" in user.type(*words)
    assert user.type("stop", "--all") == "stopped demo\n"
    assert user.processes() == {}
