"""The command line: help, usage, exit codes, and errors in a line or two."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import socket
import sys
import time
from typing import TYPE_CHECKING

import click
import pytest

from hpc import errors
from hpc.cli import main, services
from hpc.cli.output import duration, left
from hpc.cli.services import adhoc_entry, name_for
from hpc.config.fields import check_name
from hpc.errors import HpcServeError
from hpc.keys import usage as key_usage
from hpc.slurm import command
from hpc.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CODES = {
    "HpcServeError": 1,
    "ConfigError": 2,
    "CommandError": 3,
    "CommandTimeout": 3,
    "SchedulerError": 4,
    "SubmitError": 4,
    "StateError": 5,
    "EngineError": 6,
    "TunnelError": 7,
    "GatewayError": 8,
    "BatchError": 9,
}
MODEL = ("--engine", "llamacpp", "--model", "tiny.gguf", "--container", "none")


def classes(root: type[HpcServeError] = HpcServeError) -> Iterator[type[HpcServeError]]:
    """Yield an error class and all below it."""
    yield root
    for below in root.__subclasses__():
        yield from classes(below)


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, groups and their members too."""
    yield ()
    context = click.Context(main.root)
    for name in main.COMMANDS:
        yield (name,)
        command = main.root.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, member) for member in command.commands)


EVERY = list(commands())


@click.command()
@click.argument("kind")
@click.option("--hint")
def fail(kind: str, hint: str | None) -> None:
    """Fail with the error of that name."""
    if kind == "interrupt":
        raise KeyboardInterrupt
    error: type[HpcServeError] = getattr(errors, kind)
    raise error("the thing /a/b does not work", hint=hint)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in an empty folder, with nobody's configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [n for n in os.environ if n.startswith(("HPC_SERVE_", "XDG_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HPC_SERVE_CLUSTER", "local")
    monkeypatch.setitem(main.COMMANDS, "fail", (f"{__name__}:fail", "Fail."))
    return tmp_path


def code(*words: str) -> int | str | None:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main.run(words)
    return caught.value.code


def test_every_error_has_a_code() -> None:
    found = {kind.__name__: kind.exit_code for kind in classes() if kind.__module__ == "hpc.errors"}
    assert found == CODES


@pytest.mark.parametrize("kind", CODES)
def test_an_error_is_one_line_and_its_code(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("fail", kind) == CODES[kind]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hpc-serve: the thing /a/b does not work\n")


@pytest.mark.parametrize("kind", CODES)
def test_a_hint_is_a_second_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code("fail", kind, "--hint", "do this") == CODES[kind]
    assert capsys.readouterr().err.splitlines()[1:] == ["  do this"]


@pytest.mark.parametrize("kind", CODES)
def test_debug_shows_the_traceback(kind: str) -> None:
    with pytest.raises(getattr(errors, kind), match="does not work"):
        main.run(["--debug", "fail", kind])


def test_an_interrupt_ends_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("fail", "interrupt") == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_a_sentence(
    words: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*words, flag) == 0
    out, err = capsys.readouterr()
    assert err == ""
    usage, _, text = out.partition("\n\n")
    assert usage.startswith(f"Usage: {' '.join(('hpc-serve', *words))} ")
    sentence = " ".join(text.partition("\n\n")[0].split())
    assert sentence[0].isupper()
    assert sentence[-1] in ".;"
    assert max(map(len, out.splitlines())) <= 100


def find(words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words call, and the words that are left."""
    found: click.Command = main.root
    left_over = list(words)
    while left_over and isinstance(found, click.Group):
        below = found.get_command(click.Context(found), left_over.pop(0))
        assert below is not None, words
        found = below
    return found, left_over


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_ends_with_examples_that_parse(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*words, "--help") == 0
    end = capsys.readouterr().out.rpartition("\n\n")[2]
    typed = re.findall(r"\bhpc-serve ([^|><)\n]+)", end)
    assert typed
    for line in typed:
        example = shlex.split(line)
        assert tuple(example[: len(words)]) == words
        command, rest = find(example)
        command.make_context(example[0], rest)


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_says_what_it_is_for(words: tuple[str, ...]) -> None:
    command, _ = find(words)
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_the_table_says_what_the_commands_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("--help") == 0
    listed = capsys.readouterr().out
    for name, (_, text) in main.COMMANDS.items():
        assert f"\n  {name} " in listed
        assert text in " ".join(listed.split())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("--version") == 0
    assert capsys.readouterr().out == f"hpc-serve, version {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("no-such-command",),
        ("ls", "--no-such-option"),
        ("wait",),
        ("submit",),
        ("submit", "x", "--container", "docker"),
        ("submit", "x", "--replicas", "many"),
        ("submit", "--engine", "vllm"),
        ("submit", "--model", "m"),
        ("submit", "x", "--engine-arg", "a=b"),
        ("stop",),
        ("gateway", "start", "--port", "70000"),
        ("keys", "add"),
        ("keys", "add", "--name", "n", "--expires", "tomorrow"),
        ("keys", "add", "--name", "n", "--rpm", "many"),
        ("keys", "add", "--name", "n", "--budget", "1M/week"),
        ("keys", "set", "n"),
        ("keys", "set", "n", "--tpm", "0"),
        ("render", "sbatch", "x", "--replica", "-1"),
        ("logs", "x", "--replica", "-1"),
        ("logs", "x", "--tail", "-1"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_2_and_says_so_without_a_traceback(
    words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: hpc-serve")
    assert "Traceback" not in err
    assert not (place / "state" / "services").exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("status", "nobody"), 2, "there is no service 'nobody'; there are: none"),
        (("wait", "nobody"), 2, "there is no service 'nobody'; there are: none"),
        (("stop", "nobody"), 2, "there is no service 'nobody'; there are: none"),
        (("logs", "nobody"), 2, "there is no service 'nobody'; there are: none"),
        (("submit", "nobody"), 2, "models.yaml has no model 'nobody' to submit; it has: none"),
        (("submit", "x", "--models", "gone.yaml"), 2, "gone.yaml"),
        (("submit", *MODEL), 6, "tiny.gguf of 'tiny' is not there"),
        (("ls", "--home", "file/below"), 5, "file/below: Not a directory"),
        (("keys", "revoke", "nobody"), 2, "nobody"),
        (("keys", "set", "nobody", "--rpm", "1"), 2, "there is no key 'nobody' to change"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_named(
    words: tuple[str, ...],
    status: int,
    said: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "file").touch()
    assert code(*words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("hpc-serve: ")
    assert len(err.splitlines()) <= 2
    assert not (place / "state" / "services").exists()


@pytest.mark.parametrize(
    ("model", "options", "status", "said"),
    [
        ("models/typo.gguf", (), 6, "/models/typo.gguf of 'typo' is not there"),
        ("$NO_SUCH_VARIABLE/m.gguf", (), 2, "the variable $NO_SUCH_VARIABLE is not set here"),
        ("gpt2", (), 2, "neither an absolute path nor ORG/NAME:FILE.gguf"),
        ("org/x:Q4_K_M", ("--server", "llama-cpp-python"), 2, "names no file"),
        ("org/x:Q4_K_M", ("--engine-arg", "port=1"), 2, "port is set by hpc-serve itself"),
        ("org/x:Q4_K_M", ("--engine-arg", "--host=0.0.0.0"), 2, "host is set by hpc-serve itself"),
        ("https://example.org/x.gguf", (), 2, "an address outside Hugging Face"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_the_engine_would_refuse_is_told_before_the_job(
    model: str,
    options: tuple[str, ...],
    status: int,
    said: str,
    dry: tuple[str, ...],
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--engine", "llamacpp", "--container", "none", "--model", model, *options, *dry)
    assert code("submit", *words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert not (place / "state" / "services").exists()


def test_a_dry_run_prints_the_command_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "tiny.gguf").write_text("GGUF")
    words = (*MODEL, "--server", "llama-server", "--engine-arg", "ngl=4", "--dry-run")
    assert code("submit", *words) == 0
    out = capsys.readouterr().out
    assert f"llama-server --model {place}/tiny.gguf" in out
    assert "--n-gpu-layers 4" in out
    assert code("submit", *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["argv"][0] == "llama-server"
    assert not (place / "state" / "services").exists()


def test_a_cluster_that_is_none_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPC_SERVE_CLUSTER", "pbs")
    (place / "tiny.gguf").touch()
    assert code("submit", *MODEL) == 2
    assert "HPC_SERVE_CLUSTER='pbs' is not allowed" in capsys.readouterr().err
    assert not (place / "state" / "services" / "tiny").exists()


def test_lists_of_nothing_are_said_or_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("ls") == 0
    assert "hpc-serve submit" in capsys.readouterr().out
    for words in (("ls",), ("keys", "list")):
        assert code(*words, "--json") == 0
        assert json.loads(capsys.readouterr().out) == []
    assert code("stop", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": []}
    assert code("gateway", "status", "--json") == 8
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny.gguf", "tiny"),
        ("/models/Meta Llama 3.gguf", "meta-llama-3"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-instruct-v0.3"),
        ("org/repo:Q4_K_M/file-Q4_K_M.gguf", "file-q4_k_m"),
        ("/models/folder/", "folder"),
        ("org/Tiny-GGUF:Q4_K_M", "tiny-gguf"),
        ("https://huggingface.co/org/Tiny/tree/main", "tiny"),
        ("..gguf", "model"),
        ("/", "model"),
        ("Ü", "model"),
        ("x" * 60 + "-q4_k_m.gguf", "x" * 60 + "-q4"),
        ("x" * 62 + ".-y.gguf", "x" * 62),
    ],
)
def test_a_model_without_a_name_gets_one(model: str, name: str) -> None:
    assert name_for(model) == name
    assert check_name(name) == name


def test_flags_alone_describe_a_model() -> None:
    assert adhoc_entry(None, "vllm", "org/Model", ("max-model-len=8192", "enforce-eager")) == {
        "name": "model",
        "backend": "vllm",
        "model": "org/Model",
        "engine_args": {"max-model-len": "8192", "enforce-eager": True},
    }
    assert adhoc_entry("mine", "vllm", "org/Model", ()) == {
        "name": "mine",
        "backend": "vllm",
        "model": "org/Model",
    }
    assert adhoc_entry("mine", None, None, ()) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (7500, "2h05m"),
        (86_399, "23h59m"),
        (100_800, "1d04h"),
    ],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_no_limit_is_a_dash() -> None:
    assert left(None) == "-"
    assert left(0.0) == "0s"


def test_limits_are_given_changed_and_shown(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--rpm", "60", "--tpm", "100k", "--concurrency", "4", "--budget", "1M/day,20M/total")
    lengths = ("--max-tokens", "4k", "--max-prompt-tokens", "32k")
    assert code("keys", "add", "--name", "n", "--models", "a,b", *words, *lengths, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    given = {
        "rpm": 60,
        "tpm": 100_000,
        "concurrency": 4,
        "daily_tokens": 1_000_000,
        "total_tokens": 20_000_000,
        "max_tokens": 4000,
        "max_prompt_tokens": 32_000,
    }
    assert made["limits"] == given
    assert made["models"] == ["a", "b"]

    assert code("keys", "set", "n", "--rpm", "none", "--budget", "2M/day", "--tpm", "7") == 0
    assert "7 tpm, 4 at once, 2M/day, 20M in all, 4k max tokens" in capsys.readouterr().out
    today = int(time.time()) // key_usage.DAY_S
    for machine, day in (("login1", today), ("login2", today - 1)):
        used = {made["id"]: key_usage.Use(day, 10, 1, 500, 5)}
        key_usage.save(key_usage.path(place / "state", machine), used)
    assert code("keys", "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)[0]

    del given["rpm"]
    assert listed["limits"] == {**given, "daily_tokens": 2_000_000, "tpm": 7}
    assert listed["use"] == {
        "tokens_today": 10,
        "requests_today": 1,
        "tokens": 1000,
        "requests": 10,
    }
    assert code("keys", "set", "n", "--budget", "none") == 0
    assert "/day" not in capsys.readouterr().out
    assert code("keys", "list") == 0
    assert "LIMITS" in capsys.readouterr().out


def test_a_name_that_the_terminal_cannot_show_ends_no_command(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "\U0001f600\udcff.jsonl"
    path.write_text("{")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1"))

    assert code("batch", "validate", str(path)) == 9
    sys.stdout.flush()
    assert b"??.jsonl:1: no JSON" in shown.getvalue()


@pytest.mark.parametrize(
    ("local", "why"),
    [(True, "not Slurm, as asked"), (False, "as there is no Slurm here (no sbatch on PATH)")],
)
def test_a_machine_without_slurm_is_named_where_a_model_runs_there(
    *,
    local: bool,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HPC_SERVE_CLUSTER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "FOLDERS", ())
    where = services.place_of_jobs(local=local)
    services.tell_place("tiny", where, local=local)
    assert capsys.readouterr() == (
        "",
        f"tiny runs on this machine, {socket.gethostname()}: {why}\n",
    )
