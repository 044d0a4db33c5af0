"""The gateway ends by SIGKILL, a neighbour takes its port: no command and no worker trusts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest

from hpc.batch import control as batch_control
from hpc.batch import submit as batch_submit
from hpc.gateway import owner_access
from hpc.jobs import api as jobs
from hpc.keys import batch_tokens
from hpc.processes import by_pid
from hpc.state import directory
from tests.contract.gateway.conftest import engine, home
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import environment, wait_until
from tests.contract.gateway.test_batches import processors_of
from tests.fakes.gateway import publish
from tests.security.neighbour_on_login.impostors import PROMPT, impostor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hpc.model import GatewayRecord

    Run = Callable[..., subprocess.CompletedProcess[str]]

__all__ = ["engine", "home"]

CHAT = "/v1/chat/completions"
PATIENCE_S = 120.0


@pytest.fixture
def run(home: Path, tmp_path: Path, engine: Engine) -> Iterator[Run]:
    """Run commands with a model ``m``, and end at the end what they began."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "site.yaml").write_text("gateway_port: 0\n")
    env = {**environment(), "HPC_SERVE_SITE": str(folder / "site.yaml")}

    def command(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "hpc", *argv, "--home", str(home)]
        done = subprocess.run(
            words, env=env, cwd=folder, capture_output=True, text=True, timeout=180, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    with serve(engine) as url:
        entry = {"name": "m", "backend": "vllm", "backend_url": url}
        (folder / "models.yaml").write_text(json.dumps({"version": 1, "models": [entry]}))
        yield command
        for pid in processors_of(home):
            by_pid.stop(by_pid.identity(pid) or "", grace_s=5)
        for batch in batch_control.ids(home):
            jobs.cancel(batch_submit.handles(directory.batch_dir(home, batch)))
        command("gateway", "stop")


def record_in(home: Path) -> GatewayRecord:
    record = directory.load_gateway(home, socket.gethostname())
    assert record is not None
    return record


def killed(run: Run, home: Path) -> GatewayRecord:
    """Start a gateway, end it by SIGKILL, and return the record that it leaves behind."""
    run("gateway", "start", "--json")
    record = record_in(home)
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: by_pid.identity(record.pid) is None)
    return record


def as_if_reused(home: Path, pid: int) -> None:
    """Make the record name a living process, as after a reuse of the gateway's process id."""
    path = directory.gateway_dir(home, socket.gethostname()) / "gateway.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": pid}))


def prompts(path: Path, number: int = 1) -> Path:
    body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
    lines = [
        json.dumps({"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": body})
        for n in range(number)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("reused", [False, True])
def test_commands_find_that_it_is_gone(
    run: Run, home: Path, tmp_path: Path, *, reused: bool
) -> None:
    before = killed(run, home)
    path = str(tmp_path / "theirs.sock")
    words = ("lite run", "--unix", path)
    with impostor(tmp_path, "yes", str(before.port), *words) as other:
        if reused:
            as_if_reused(home, other.process.pid)
        (row,) = json.loads(run("gateway", "status", "--json", check=False).stdout)
        assert row["state"] == "gone"
        assert run("gateway", "reload", check=False).returncode == 8
        asked = str(prompts(tmp_path / "in.jsonl"))
        out = tmp_path / "out.jsonl"
        argv = ("batch", "submit", asked, "-o", str(out), "--service", "m")
        done = run(*argv, check=False)
        assert (done.returncode, "no gateway runs" in done.stderr) == (8, True), done.stderr
        assert not out.exists()

        access = json.loads(run("gateway", "ensure", "--json").stdout)
        assert access["port"] != other.port
        assert access["socket"] != path
        told = run("gateway", "env").stdout
        assert f":{access['port']}/v1" in told
        assert f"HPC_SERVE_SOCKET={access['socket']}" in told
        assert other.process.poll() is None
        assert other.learned_nothing(access["key"], access["proof_secret"])
        assert other.connections == 0


def test_a_record_of_a_day_ago_on_another_machine_gets_no_key(
    run: Run, home: Path, tmp_path: Path
) -> None:
    with impostor(tmp_path, "yes", "[::1]:0") as other:
        for beat_at in (time.time() - 86400, time.time() + 86400, time.time()):
            publish(home, other.port, hostname="n1", host="::1", beat_at=beat_at, pid=1, process="")
            access = json.loads(run("gateway", "ensure", "--json").stdout)
            assert access["host"] == "127.0.0.1"
            run("gateway", "stop")
        assert other.learned_nothing(access["key"])
        assert other.connections == 1  # the challenge to the fresh one


@pytest.mark.parametrize("kind", ["cli", "openai"])
def test_workers_of_a_batch_wait_for_the_true_gateway(
    run: Run, home: Path, tmp_path: Path, engine: Engine, kind: str
) -> None:
    run("gateway", "start", "--json")
    key = json.loads(run("gateway", "ensure", "--json").stdout)["key"]
    before = record_in(home)
    engine.status = 503  # nothing is answered until the true gateway is back
    begin, finish = (
        (from_the_shell, from_the_shell_done) if kind == "cli" else (by_api, by_api_done)
    )
    name = begin(run, home, prompts(tmp_path / "in.jsonl", 40), key)
    assert engine.wait_for(lambda: bool(engine.seen), PATIENCE_S)
    os.kill(before.pid, signal.SIGKILL)
    with impostor(tmp_path, "yes", str(before.port)) as other:
        as_if_reused(home, other.process.pid)
        time.sleep(5)  # longer than a worker waits between two attempts at first
        assert other.learned_nothing(key, PROMPT)
        engine.status = None
        after = json.loads(run("gateway", "ensure", "--json").stdout)
        assert after["port"] != before.port
        text = finish(run, home, name, key)
        assert other.learned_nothing(key, PROMPT)
    assert "forged" not in text
    assert len(text.splitlines()) == 40


def from_the_shell(run: Run, home: Path, asked: Path, key: str) -> str:
    argv = ("batch", "submit", str(asked), "-o", str(asked.with_name("out")), "--service", "m")
    del home, key
    return str(json.loads(run(*argv, "--json").stdout)["id"])


def from_the_shell_done(run: Run, home: Path, name: str, key: str) -> str:
    del key

    def state() -> str:
        return str(json.loads(run("batch", "status", name, "--json").stdout)["state"])

    wait_until(lambda: state() == "DONE", PATIENCE_S)
    return (home.parent / "out").read_text()


def client(home: Path, key: str) -> openai.OpenAI:
    url = f"http://127.0.0.1:{record_in(home).port}/v1"
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


def by_api(run: Run, home: Path, asked: Path, key: str) -> str:
    del run
    with client(home, key) as asks:
        file = asks.files.create(file=asked, purpose="batch")
        return asks.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        ).id


def by_api_done(run: Run, home: Path, name: str, key: str) -> str:
    del run
    with client(home, key) as asks:
        done = wait_until(lambda: over(asks.batches.retrieve(name)), PATIENCE_S)
        assert done.status == "completed", done
        return asks.files.content(str(done.output_file_id)).text


WAYS = {"cli": (from_the_shell, from_the_shell_done), "openai": (by_api, by_api_done)}


def over(batch: Any) -> Any:
    return batch if batch.status in ("completed", "failed", "expired") else None


def test_a_signal_goes_to_the_recorded_process_alone(run: Run, home: Path) -> None:
    """Also of two processes of this user: the id is reused, and the words are the same."""
    killed(run, home)
    argv = [sys.executable, "-c", "import time; time.sleep(600)", "lite run"]
    bystander = subprocess.Popen(argv)
    try:
        as_if_reused(home, bystander.pid)
        assert run("gateway", "reload", check=False).returncode == 8
        assert run("gateway", "stop").stdout == "no gateway runs on this machine\n"
        time.sleep(1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_batch_keeps_no_key_of_the_owner(
    run: Run, home: Path, tmp_path: Path, engine: Engine
) -> None:
    run("gateway", "start")
    key = owner_access.owner_key(home)
    asked = str(prompts(tmp_path / "in.jsonl"))
    engine.status = 503
    names = []
    for out in ("a", "b"):
        argv = ("batch", "submit", asked, "-o", str(tmp_path / out), "--service", "m", "--json")
        names.append(json.loads(run(*argv).stdout)["id"])
    secret = batch_tokens.load(batch_tokens.path(home))
    assert secret is not None
    holders = []
    for name in names:
        folder = directory.batch_dir(home, name)
        assert not any(
            key.encode() in path.read_bytes() for path in folder.glob("*") if path.is_file()
        )
        token = (folder / "key").read_text().encode()
        holder = batch_tokens.holder(secret, token)
        assert holder is not None
        assert batch_tokens.in_progress(home, holder)
        holders.append(holder)
    run("batch", "cancel", names[0])
    assert not batch_tokens.in_progress(home, holders[0])
    assert batch_tokens.in_progress(home, holders[1])
    engine.status = None
    wait_until(lambda: not batch_tokens.in_progress(home, holders[1]), PATIENCE_S)
    assert (directory.batch_dir(home, names[1]) / "report.json").exists()


def test_no_other_user_can_hold_the_lock_of_the_start(run: Run, home: Path) -> None:
    """Names of abstract sockets are everybody's; they are guessed from user and folder."""
    import hashlib  # noqa: PLC0415

    def spent() -> float:
        began = time.monotonic()
        run("gateway", "ensure", "--json")
        return time.monotonic() - began

    run("gateway", "ensure", "--json")
    alone = spent()
    mark = hashlib.sha256(str(home).encode()).hexdigest()[:16]
    with socket.socket(socket.AF_UNIX) as squat:
        squat.bind(f"\0hpc-serve-gateway-{os.getuid()}-{mark}")
        assert spent() - alone < 25  # a squatted name cost 30 s


def test_one_start_waits_for_another(run: Run, home: Path) -> None:
    from hpc.gateway import control  # noqa: PLC0415

    with contextlib.ExitStack() as held:
        held.enter_context(control.one_at_a_time(home))
        argv = [sys.executable, "-m", "hpc", "gateway", "ensure", "--home", str(home)]
        child = subprocess.Popen(argv, env=environment(), stdout=subprocess.DEVNULL)
        time.sleep(3)
        assert child.poll() is None
        assert directory.load_gateway(home, socket.gethostname()) is None
        held.close()
        assert child.wait(60) == 0
