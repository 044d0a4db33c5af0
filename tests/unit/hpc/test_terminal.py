"""Text of others on a terminal: it is shown, and commands nothing."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc import terminal

CLI = Path(__file__).parents[3] / "hpc" / "cli"


@pytest.mark.parametrize(
    "attack",
    [
        *(
            "\x1b]0;OWNED\x07",
            "\x1b[2J\x1b[H",
            "\x1b]52;c;cm0gLXJmIH4=\x07",
            "\x9b31m",
            "\x90q\x9c",
        ),
        *(
            "a\rb",
            "a\x08b",
            "\x7f",
            "\x00",
            "\x85",
            "\u202etxt.exe",
            "\u2066x\u2069",
            "\x0c",
            "\x0b",
        ),
        *("\u200f", "\u061c", "\u2028", "\u2029"),
    ],
)
def test_nothing_commands_the_terminal(attack: str) -> None:
    shown = terminal.plain(f"engine said {attack} !")

    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"} for char in shown)
    assert "\ufffd" in shown
    assert shown.startswith("engine said ")
    assert shown.endswith(" !")


@given(st.text())
def test_only_control_characters_change(text: str) -> None:
    shown = terminal.plain(text)

    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        assert after in (before, terminal.SHOWN)
        assert after in "\n\t" or unicodedata.category(after) != "Cc"


def test_halves_of_characters_are_shown_as_none() -> None:
    shown = terminal.plain("models/\udcff and \ud83d")

    assert shown == "models/\ufffd and \ufffd"
    assert shown.encode()


@pytest.mark.parametrize("text", ["", "a\tb\nc", "größer → 日本語 🙂", "e\u0301"])
def test_ordinary_text_stays(text: str) -> None:
    assert terminal.plain(text) == text


def test_commands_print_by_the_one_function() -> None:
    allowed = {"output.py", "logs.py"}
    wrong = [
        path.name
        for path in sorted(CLI.rglob("*.py"))
        if path.name not in allowed and "click.echo(" in path.read_text(encoding="utf-8")
    ]

    assert wrong == []
