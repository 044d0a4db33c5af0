"""``hpc-serve gateway`` and ``hpc-serve keys``, as commands of their own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.processes import by_pid
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import PATIENCE_S, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Iterator[Run]:
    """Run commands in an empty folder, and stop the gateway at the end."""
    folder = tmp_path / "work"
    folder.mkdir()

    def command(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "hpc", *argv, "--home", str(home)],
            env={**environment(), "HPC_SERVE_SITE": str(folder / "site.yaml")},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    (folder / "site.yaml").write_text(f"gateway_port: {port}\n")
    yield command
    command("gateway", "stop")


def ask(access: dict[str, Any], path: str = "/v1/models") -> httpx.Response:
    headers = {"authorization": f"Bearer {access['key']}"}
    url = f"http://{access['host']}:{access['port']}{path}"
    return httpx.get(url, headers=headers, trust_env=False)


def test_ensure_starts_what_is_missing_and_opens_it(run: Run, home: Path) -> None:
    with serve(Engine()) as url:
        entry = {"name": "m", "backend": "vllm", "backend_url": url}
        models = home.parent / "work/models.yaml"
        models.write_text(json.dumps({"version": 1, "models": [entry]}))
        first = run("gateway", "ensure", "--json").stdout
        assert first.count("\n") == 1
        access = json.loads(first)
        assert set(access) == {"host", "port", "key", "version", "proof_secret", "socket"}
        assert Path(access["socket"]).stat().st_mode & 0o777 == 0o600
        through = httpx.Client(transport=httpx.HTTPTransport(uds=access["socket"]))
        with through as client:
            assert client.get("http://gateway/healthz").status_code == 200
        assert access["host"] == "127.0.0.1"
        assert [model["id"] for model in ask(access).json()["data"]] == ["m"]
        assert json.loads(run("gateway", "ensure", "--json").stdout) == access
    for path in (directory.owner_key_path(home), directory.keys_path(home)):
        assert path.stat().st_mode & 0o777 == 0o600
    assert access["key"] not in directory.keys_path(home).read_text()
    log = directory.gateway_dir(home, socket.gethostname()) / "gateway.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert access["key"] not in log.read_text()


def test_two_at_once_start_one_gateway(run: Run) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: run("gateway", "ensure", "--json").stdout, range(3)))
    accesses = [json.loads(text) for text in found]
    assert len({access["port"] for access in accesses}) == 1
    wait_until(lambda: {ask(access).status_code for access in accesses} == {200})


def test_a_revoked_owner_key_is_replaced(run: Run) -> None:
    access = json.loads(run("gateway", "ensure", "--json").stdout)
    run("keys", "revoke", "owner")
    wait_until(lambda: ask(access).status_code == 401)
    renewed = json.loads(run("gateway", "ensure", "--json").stdout)
    assert renewed["key"] != access["key"]
    assert renewed["port"] == access["port"]
    wait_until(lambda: ask(renewed).status_code == 200)


def test_start_status_stop(run: Run, home: Path) -> None:
    assert run("gateway", "status", check=False).returncode == 8
    began = json.loads(run("gateway", "start", "--json").stdout)
    assert began["started"] is True
    again = run("gateway", "start")
    assert f"runs already: http://127.0.0.1:{began['port']}/v1" in again.stdout
    (row,) = json.loads(run("gateway", "status", "--json").stdout)
    assert (row["state"], row["pid"], row["port"]) == ("running", began["pid"], began["port"])
    assert str(began["port"]) in run("gateway", "status").stdout
    assert run("gateway", "stop").stdout == "the gateway is stopped\n"
    assert not by_pid.identity(began["pid"])
    assert directory.load_gateway(home, socket.gethostname()) is None
    assert run("gateway", "stop").stdout == "no gateway runs on this machine\n"


def test_the_default_port_may_be_taken(run: Run, home: Path) -> None:
    port = int((home.parent / "work/site.yaml").read_text().split()[1])
    with socket.create_server(("127.0.0.1", port)):
        began = json.loads(run("gateway", "start", "--json").stdout)
    assert began["port"] not in (0, port)


def test_a_port_asked_for_must_be_free(run: Run, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        done = run("gateway", "start", "--port", str(port), check=False)
    assert done.returncode == 8
    assert done.stderr == (
        "hpc-serve: the gateway did not start: "
        f"cannot listen on 127.0.0.1:{port}: address already in use\n"
    )
    assert directory.load_gateway(home, socket.gethostname()) is None


def test_a_bad_models_file_is_told(run: Run, home: Path) -> None:
    (home.parent / "work/models.yaml").write_text("version: 1\nmodles: []\n")
    done = run("gateway", "start", check=False)
    assert done.returncode == 8
    assert "models.yaml:2" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_keys_file_open_to_others_is_told(run: Run, home: Path) -> None:
    run("keys", "add", "--name", "alice")
    directory.keys_path(home).chmod(0o640)
    for command in (("gateway", "ensure", "--json"), ("keys", "list")):
        done = run(*command, check=False)
        assert done.returncode == 2
        assert "is open to others (mode 640)" in done.stderr
        assert "chmod 600" in done.stderr
    done = run("gateway", "start", check=False)
    assert (done.returncode, "is open to others" in done.stderr) == (8, True)


def test_a_gateway_that_was_killed_is_replaced(run: Run) -> None:
    began = json.loads(run("gateway", "start", "--json").stdout)
    subprocess.run(["kill", "-9", str(began["pid"])], check=True)
    wait_until(lambda: not by_pid.identity(began["pid"]))
    (row,) = json.loads(run("gateway", "status", "--json", check=False).stdout)
    assert row["state"] == "gone"
    assert json.loads(run("gateway", "start", "--json").stdout)["started"] is True


def test_run_stays_in_the_foreground(run: Run, home: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "hpc", "gateway", "run", "--port", "0", "--home", str(home)]
    with (tmp_path / "out").open("wb") as out:
        child = subprocess.Popen(argv, env=environment(), cwd=tmp_path, stdout=out, stderr=out)
    record = wait_until(lambda: directory.load_gateway(home, socket.gethostname()))
    assert record.pid == child.pid
    wait_until(lambda: json.loads(run("gateway", "start", "--json").stdout)["started"] is False)
    second = run("gateway", "run", check=False)
    assert (second.returncode, "already" in second.stderr) == (8, True)
    child.terminate()
    assert child.wait(PATIENCE_S) == 0
    assert directory.load_gateway(home, socket.gethostname()) is None


def test_keys_from_the_command_line(run: Run) -> None:
    made = run("keys", "add", "--name", "alice", "--model", "m", "--expires", "30d")
    key = made.stdout.strip()
    assert key.startswith("hs-")
    assert "only time" in made.stderr
    again = run("keys", "add", "--name", "alice", check=False)
    assert (again.returncode, "already" in again.stderr) == (2, True)
    (entry,) = json.loads(run("keys", "list", "--json").stdout)
    assert (entry["name"], entry["models"], entry["revoked"]) == ("alice", ["m"], None)
    assert "sha256" not in entry
    listed = run("keys", "list").stdout
    assert ("alice" in listed, key in listed) == (True, False)
    run("keys", "revoke", entry["id"])
    gone = run("keys", "revoke", "alice", check=False)
    assert (gone.returncode, "there is no key 'alice'" in gone.stderr) == (2, True)
    bad = run("keys", "add", "--name", "bob", "--expires", "soon", check=False)
    assert (bad.returncode, "allowed: 12h" in bad.stderr) == (2, True)
    assert run("keys", "add", "--name", "a b", check=False).returncode == 2


def test_workers_and_a_unix_socket_are_one_gateway(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "models.yaml").write_text("models: []\n")
    started = json.loads(
        run("gateway", "start", "--workers", "2", "--unix", str(home / "gw.sock"), "--json").stdout
    )
    access = json.loads(run("gateway", "ensure").stdout)
    assert access["port"] == started["port"]
    assert json.loads(run("gateway", "status", "--json").stdout)[0]["state"] == "running"

    transport = httpx.HTTPTransport(uds=str(home / "gw.sock"))
    with httpx.Client(transport=transport, base_url="http://x") as client:
        assert client.get("/healthz").status_code == 200
    reloaded = json.loads(run("gateway", "reload", "--json").stdout)
    assert reloaded["refused"] is None
    run("gateway", "stop")
    assert not by_pid.identity(started["pid"])
    assert not (home / "gw.sock").exists()
    assert directory.load_gateway(home, socket.gethostname()) is None


PROXIES = dict.fromkeys(
    ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"
)


def test_the_printed_lines_keep_web_proxies_out(run: Run) -> None:
    lines = run("gateway", "env").stdout
    curl = 'curl -s -o /dev/null -w "%{http_code}\\n" "$OPENAI_BASE_URL/models"'
    python = f'{sys.executable} -c "import openai; print(len(openai.OpenAI().models.list().data))"'
    for proxies in (PROXIES, {**PROXIES, "no_proxy": "site.example"}):
        argv = ["sh", "-euc", f"{lines}{curl}\n{python}"]
        env = {**environment(), **proxies}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.stdout.split() == ["401", "0"], done.stderr


def test_anybody_is_let_in_where_that_is_said_and_only_from_here(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work" / "models.yaml").write_text("models: []\ngateway: {anonymous: true}\n")
    refused = run("gateway", "start", "--host", "0.0.0.0", check=False)
    assert refused.returncode != 0
    assert "gateway.anonymous is allowed on loopback and Unix sockets only" in refused.stderr
    started = json.loads(run("gateway", "start", "--json").stdout)
    url = f"http://127.0.0.1:{started['port']}/v1/models"

    assert httpx.get(url, trust_env=False).status_code == 200
    wrong = {"authorization": "Bearer hs-wrong"}
    assert httpx.get(url, headers=wrong, trust_env=False).status_code == 401
