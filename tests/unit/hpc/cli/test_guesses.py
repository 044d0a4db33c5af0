"""Names as people guess them: other words for commands, and near misses of all names."""

from __future__ import annotations

import click
import pytest

from hpc.cli import guesses, main
from hpc.errors import did_you_mean


def resolved(*words: str) -> str:
    """Return the path of the command that some words reach."""
    command: click.Command = main.root
    context = click.Context(command, info_name="hpc-serve")
    found = []
    for word in words:
        assert isinstance(command, click.Group)
        name, below, _ = command.resolve_command(context, [word])
        assert name is not None
        assert below is not None
        found.append(name)
        command, context = below, click.Context(below, info_name=name, parent=context)
    return " ".join(found)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("list", "ls"),
        ("ps", "ls"),
        ("rm", "stop"),
        ("log", "logs"),
        ("up", "submit"),
        ("start", "submit"),
        ("tunnel", "connect"),
        ("status", "status"),
        ("keys ls", "keys list"),
        ("keys rm", "keys revoke"),
        ("keys create", "keys add"),
        ("gateway up", "gateway start"),
        ("gateway down", "gateway stop"),
        ("batch list", "batch ls"),
        ("batch start", "batch submit"),
    ],
)
def test_other_words_reach_a_command(typed: str, meant: str) -> None:
    assert resolved(*typed.split()) == meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("statsu", "status"), ("sumbit", "submit"), ("conect", "connect"), ("gateway stat", "start")],
)
def test_a_slip_names_the_command(typed: str, meant: str) -> None:
    with pytest.raises(click.UsageError, match=rf"has no command .* \(did you mean '{meant}'\?\)"):
        resolved(*typed.split())


def test_a_far_word_gets_no_guess() -> None:
    with pytest.raises(click.UsageError) as told:
        resolved("xyzzy")
    assert told.value.message == "hpc-serve has no command 'xyzzy'"


def test_no_alias_hides_a_command() -> None:
    """A word that a group itself has means that command there."""
    assert resolved("gateway", "start") == "gateway start"
    assert resolved("keys", "list") == "keys list"
    for word, meant in guesses.ALIASES.items():
        assert word not in meant


def test_a_suggestion_is_the_nearest_name_or_nothing() -> None:
    assert did_you_mean("mistal", ["mistral", "llama"]) == " (did you mean 'mistral'?)"
    assert did_you_mean("gpt", ["mistral", "llama"]) == ""
