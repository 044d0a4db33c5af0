"""models.yaml is edited under running streams: good edits count soon, bad ones are refused."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway_lite.catalog.models_file import SETTLE_S
from hpc.state import directory
from tests.contract.gateway.editor import EDITS, edit_all, written
from tests.contract.gateway.engines import Engine, Raw, read_request, serve
from tests.contract.gateway.programs import (
    BODY,
    PATIENCE_S,
    REPO,
    Running,
    environment,
    run_gateway,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def served(gateway: Running) -> set[str]:
    with gateway.client() as client:
        return {model["id"] for model in client.get("/v1/models").json()["data"]}


def refusal(gateway: Running) -> str | None:
    with gateway.client() as client:
        found: str | None = client.get("/version").json()["models_file"]["refused"]
        return found


def command(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "hpc", "gateway", *argv, "--home", str(home)]
    return subprocess.run(
        line,
        capture_output=True,
        text=True,
        env=environment(),
        cwd=home,
        check=False,
        timeout=PATIENCE_S,
    )


def test_a_hundred_edits_under_streams_lose_none(home: Path) -> None:
    file = home.parent / "models.yaml"
    with (
        serve(Engine("one")) as one,
        serve(Engine("two")) as two,
        run_gateway(home, {"m": one}) as gateway,
    ):
        editor = asyncio.run(edit_all(gateway, file, [one, two]))
        log = gateway.log.read_text()
    assert editor.lost == []
    assert editor.streams > EDITS
    assert editor.refused == EDITS // 4
    assert "Traceback" not in log


def test_a_file_emptied_and_then_written_is_one_edit(home: Path) -> None:
    file = home.parent / "models.yaml"
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        whole = written({"m": url, "n": url}) + "\n" * 200
        written_at = []
        with file.open("w") as out:
            for begin in range(0, len(whole), 10):
                out.write(whole[begin : begin + 10])
                out.flush()
                written_at.append(time.monotonic())
                time.sleep(0.05)
        pauses = [after - before for before, after in itertools.pairwise(written_at)]
        wait_until(lambda: served(gateway) == {"m", "n"})
        file.unlink()
        wait_until(lambda: refusal(gateway) == "there is no models file models.yaml")
        assert gateway.post({"model": "n"}).status_code == 200
        log = gateway.log.read_text()
    # Where this process got no time for as long, a part of the file is an edit of its own.
    said = log.count("the last valid configuration stays in force")
    assert said == 1 or max(pauses) > SETTLE_S / 2


def test_a_models_file_that_hangs_stops_nothing(home: Path) -> None:
    """Nobody writes to a FIFO: opening it waits, as on a file server that is down."""
    file = home.parent / "models.yaml"
    with serve(Engine()) as url, run_gateway(home, {"m": url}) as gateway:
        file.unlink()
        os.mkfifo(file)
        time.sleep(1.5)
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.post({}).status_code == 200
        assert gateway.terminate() == 0


def test_a_connection_to_a_removed_backend_ends_with_its_last_stream(home: Path) -> None:
    """A connection of a model that stays is kept for seconds more, though it was idle before."""
    removed, closed = threading.Event(), []

    def engine(name: str, may_end: Callable[[float], bool]) -> Raw:
        def script(connection: socket.socket, number: int) -> None:
            del number
            read_request(connection)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n")
            assert may_end(PATIENCE_S)
            connection.sendall(b"5\r\n end\n\r\n0\r\n\r\n")
            connection.settimeout(PATIENCE_S)
            assert connection.recv(1) == b""
            closed.append(name)

        return Raw(script)

    goes, stays = engine("goes", removed.wait), engine("stays", bool)
    with run_gateway(home, {"m": goes.url, "stays": stays.url}) as gateway:
        body = {**BODY, "stream": True}
        with (
            gateway.client() as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            (home.parent / "models.yaml").write_text(written({"stays": stays.url}))
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: served(gateway) == {"stays"})
            assert gateway.post({}).status_code == 404
            assert gateway.post({"stream": True, "model": "stays"}).text == "data: end\n"
            removed.set()
            assert answer.read() == b"data: end\n"
        wait_until(lambda: len(closed) == 2)
    assert closed == ["goes", "stays"]
    goes.close()
    stays.close()


def test_the_command_tells_what_became_of_an_edit(home: Path) -> None:
    file = home.parent / "models.yaml"
    with serve(Engine()) as url, run_gateway(home, {"m": url, "old": url}) as gateway:
        file.write_text(written({"m": url + "/api", "new": url}))
        done = command(home, "reload")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("added new; removed old; changed m\n")  # perhaps by itself
        assert served(gateway) == {"m", "new"}
        again = command(home, "reload")
        assert again.returncode == 0
        assert again.stdout.startswith("nothing new; in force for ")
        assert again.stdout.endswith("s: added new; removed old; changed m\n")
        before = time.time()
        file.write_text("models:\n- name: m\n  backend: vlm\n")
        allowed = "'vllm', 'llamacpp', 'sglang' or 'openai'"
        sentence = f"{file}:3: models.backend: input should be {allowed}"
        bad = command(home, "reload")
        assert (bad.returncode, bad.stdout) == (2, "")
        assert sentence in bad.stderr.replace("\n", " ")
        shown = command(home, "status")
        assert re.search(rf" refuses its models file for \d+s: {re.escape(sentence)}", shown.stdout)
        told: dict[str, Any] = json.loads(command(home, "status", "--json").stdout)[0]["reload"]
        assert told["refused"] == sentence
        assert before <= told["refused_at"] <= time.time()
        assert (told["added"], told["removed"]) == (["new"], ["old"])
        assert served(gateway) == {"m", "new"}
        assert refusal(gateway) == sentence.replace(f"{file.parent}/", "")
        assert gateway.log.read_text().count(sentence) == 1
        file.write_text(written({"m": url}))
        assert json.loads(command(home, "reload", "--json").stdout)["removed"] == ["new"]
        assert "refuses" not in command(home, "status").stdout


def test_the_command_without_a_gateway_says_so(home: Path) -> None:
    done = command(home, "reload")
    assert done.returncode == 8
    assert "no gateway runs on this machine" in done.stderr


def test_a_gateway_ends_with_the_terminal_it_runs_in(home: Path) -> None:
    (home.parent / "models.yaml").write_text("models: []")
    ours, theirs = pty.openpty()

    argv = [
        "setsid",
        "--ctty",
        sys.executable,
        "-m",
        "gateway_lite",
        "run",
        "--home",
        str(home),
        "--port",
        "0",
    ]
    with (home.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            argv,
            stdin=theirs,
            stdout=log,
            stderr=log,
            env=environment(),
            cwd=REPO,
        )
    try:
        os.close(theirs)
        wait_until(lambda: directory.load_gateway(home, socket.gethostname()))
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        os.close(ours)
        assert process.wait(PATIENCE_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)
