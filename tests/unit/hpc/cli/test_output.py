"""What commands print: tables, JSON, and nothing that a script would stumble over."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click
import pytest

from hpc.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS = [["mistral", "1/2", "LOADING, READY"], ["a-[b]-c", "0/1", ""]]


@pytest.fixture
def width(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give the terminal a width."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return lambda columns: monkeypatch.setenv("COLUMNS", str(columns))


def test_a_table_has_its_columns_under_their_headings(
    width: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    width(80)
    output.print_table(["NAME", "READY", "PHASES"], ROWS)
    out, err = capsys.readouterr()
    assert [line.rstrip() for line in out.splitlines()] == [
        "NAME     READY  PHASES",
        "mistral  1/2    LOADING, READY",
        "a-[b]-c  0/1",
    ]
    assert err == ""
    assert "\x1b" not in out


def test_a_narrow_table_wraps_and_loses_nothing(
    width: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    width(30)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    note = "the engine ran out of memory on node-0123456789-0123456789"
    output.print_table(["NAME", "NOTE"], [["mistral", note]])
    out = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, out.splitlines())) <= 30
    cells = "".join(line[9:] for line in out.splitlines()[1:])
    assert cells.replace(" ", "") == note.replace(" ", "")


@pytest.mark.parametrize("columns", [None, "20", "80"])
def test_a_table_in_a_pipe_has_each_row_on_one_line(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    note = " ".join(["word"] * 40)
    output.print_table(["NAME", "NOTE"], [["mistral", note], ["two\nlines", "\x1b[31m"]])
    assert capsys.readouterr().out.splitlines() == [
        "NAME       NOTE",
        f"mistral    {note}",
        "two lines  \ufffd[31m",
    ]


def test_states_have_colours_on_a_terminal_that_wants_them(
    width: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    width(80)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    row = ["READY", "1 READY, 2 FAILED"]
    output.print_table(["NAME", "PHASES"], [row])
    out = capsys.readouterr().out
    assert "\x1b[32mREADY\x1b[0m" in out
    assert "\x1b[31mFAILED\x1b[0m" in out
    assert out.splitlines()[1].startswith("READY")
    monkeypatch.setenv("NO_COLOR", "1")
    output.print_table(["NAME", "PHASES"], [row])
    assert "\x1b[3" not in capsys.readouterr().out


def test_json_is_json_whatever_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": 'ä "b"\n', "none": None, "rows": [1, 2.5, True]}
    output.print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_what_is_shown_meanwhile_keeps_off_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    with output.spinner("waiting") as status:
        status.update("still waiting")
        click.echo("a line")
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("a line\n", "")


def test_examples_stay_on_lines_of_their_own() -> None:
    @click.command(epilog=output.examples("one --a", "two --b"))
    def command() -> None:
        """Do something."""

    shown = command.get_help(click.Context(command, max_content_width=40))
    assert shown.endswith("Examples:\n    one --a\n    two --b")
