"""The command ``chat`` against a real gateway: one question, a conversation, programs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hpc.cli.chat_code import program
from tests.contract.gateway.engines import Engine, Seen, serve
from tests.contract.gateway.programs import REPO, Running, environment, run_gateway
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Echo(Engine):
    """An engine that answers with all that it was told, in two parts when streaming."""

    async def _answer(self, request: Seen, send: Any) -> None:
        said = " / ".join(one["content"] for one in request.body["messages"])
        if request.body.get("stream"):
            parts = [{"delta": {"content": part}} for part in ("I heard: ", said)]
            events = [json.dumps({"choices": [one]}) for one in parts]
            body = "".join(f"data: {one}\n\n" for one in [*events, '{"choices": []}', "[DONE]"])
            kind = b"text/event-stream"
        else:
            message = {"content": f"I heard: {said}"}
            body, kind = json.dumps({"choices": [{"message": message}]}), b"application/json"
        head = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body.encode()})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """Run a gateway with one model; yield the gateway and its state directory."""
    home = tmp_path_factory.mktemp("chat") / "home"
    with serve(Echo()) as url, run_gateway(home, {"mistral": url}) as running:
        yield running, home


def chat(home: Path, *words: str, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``hpc-serve chat`` with something on standard input."""
    kept = {k: v for k, v in environment().items() if not k.startswith("OPENAI_")}
    return subprocess.run(
        [sys.executable, "-m", "hpc", "chat", *words, "--home", str(home)],
        input=typed,
        capture_output=True,
        text=True,
        env={**kept, "http_proxy": "http://127.0.0.1:9", **more},
        cwd=REPO,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_question_is_answered_by_the_gateway_of_this_machine(
    gateway: tuple[Running, Path],
) -> None:
    running, home = gateway
    for words, typed in ((("mistral", "Who wrote Emma?"), ""), (("mistral",), "Who wrote Emma?")):
        done = chat(home, *words, "--system", "Be short.", typed=typed)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "I heard: Be short. / Who wrote Emma?\n"
    named = {"OPENAI_BASE_URL": f"{running.url}/v1", "OPENAI_API_KEY": running.key}
    assert chat(home, "mistral", "Hello", **named).stdout == "I heard: Hello\n"


def test_a_slip_in_the_model_names_the_right_one(gateway: tuple[Running, Path]) -> None:
    done = chat(gateway[1], "mistal", "Hello")
    assert done.returncode == 2
    assert "(did you mean 'mistral'?)" in done.stderr
    assert done.stdout == ""


def test_without_a_gateway_the_next_step_is_named(tmp_path: Path) -> None:
    done = chat(tmp_path / "home", "mistral", "Hello")
    assert done.returncode == 8
    assert done.stderr.splitlines() == [
        "hpc-serve: no gateway runs on this machine, and no tunnel is open",
        "  on a login node: hpc-serve gateway start; on a laptop: hpc-serve connect USER@LOGIN",
    ]


def test_a_conversation_goes_on_at_a_terminal(gateway: tuple[Running, Path]) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "hpc", "chat", "mistral", "--home", str(gateway[1])]
    more = {"TERM": "dumb"}
    program = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment(), **more}, cwd=REPO
    )
    os.close(theirs)
    seen = ""
    try:
        for typed in ("one\n", "\n", "two\n", "\x04"):
            # Keys before the prompt would meet a terminal that still edits lines itself.
            while not seen.endswith("> "):
                seen += os.read(ours, 4096).decode()
            seen = seen[:-1] + "-"
            os.write(ours, typed.encode())
        assert program.wait(PATIENCE_S) == 0
    finally:
        program.kill()
        program.wait()
        os.close(ours)
    assert "I heard: one\r\n" in seen
    assert "I heard: one / I heard: one / two\r\n" in seen


@pytest.mark.parametrize(
    ("language", "argv", "ending"),
    [
        ("curl", ["sh"], "sh"),
        ("python", [sys.executable], "py"),
        ("httpx", [sys.executable], "py"),
        ("javascript", ["node"], "mjs"),
        ("r", ["Rscript"], "R"),
    ],
)
def test_the_printed_programs_ask_the_same(
    gateway: tuple[Running, Path], tmp_path: Path, language: str, argv: list[str], ending: str
) -> None:
    if shutil.which(argv[0]) is None or (language == "curl" and shutil.which("curl") is None):
        pytest.skip(f"no {argv[0]} on this machine")
    running, home = gateway
    question = 'it\'s "quoted" \\ and $HOME `id` ü'
    printed = chat(home, "mistral", question, "--code", language)
    assert printed.returncode == 0, printed.stderr
    body = {"model": "mistral", "messages": [{"role": "user", "content": question}]}
    assert printed.stdout == program(language, body) + "\n"
    path = tmp_path / f"ask.{ending}"
    path.write_text(printed.stdout)
    done = subprocess.run(
        [*argv, str(path)],
        capture_output=True,
        text=True,
        env={
            **environment(),
            "OPENAI_BASE_URL": f"{running.url}/v1",
            "OPENAI_API_KEY": running.key,
            "http_proxy": "http://127.0.0.1:9",
        },
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    if language == "curl":
        events = [line.removeprefix("data: ") for line in said.splitlines() if "choices" in line]
        parts = [part for event in events for part in json.loads(event)["choices"]]
        said = "".join(part["delta"]["content"] for part in parts)
    assert said.strip() == f"I heard: {question}"
