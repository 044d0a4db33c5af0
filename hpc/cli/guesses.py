"""Command names that people guess: other words for a command, and near misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpc.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

ALIASES = {
    "list": ("ls",),
    "ls": ("list",),
    "ps": ("ls", "list", "status"),
    "rm": ("stop", "revoke", "cancel"),
    "remove": ("stop", "revoke", "cancel"),
    "delete": ("stop", "revoke", "cancel"),
    "kill": ("stop", "cancel"),
    "cancel": ("stop",),
    "log": ("logs",),
    "start": ("submit",),
    "up": ("submit", "start"),
    "add": ("create",),
    "new": ("add",),
    "create": ("add",),
    "down": ("stop",),
    "tunnel": ("connect",),
}
"""Words of other programs for commands of this one: the first that a group has."""


class GuessingGroup(click.Group):
    """A group that takes other words for its commands, and suggests the nearest name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command for the first argument.

        Raises:
            UsageError: there is no such command; names the nearest.
        """
        names = self.list_commands(ctx)
        word = args[0] if args else ""
        if self.get_command(ctx, word) is None and word[:1] != "-":
            meant = next((name for name in ALIASES.get(word, ()) if name in names), None)
            if meant is None:
                said = f"{ctx.command_path} has no command {word!r}"
                raise click.UsageError(said + did_you_mean(word, (*names, *_words_for(names))), ctx)
            args = [meant, *args[1:]]
        return super().resolve_command(ctx, args)


def _words_for(names: Iterable[str]) -> list[str]:
    """Return the other words for commands of a group."""
    there = set(names)
    return [word for word, meant in ALIASES.items() if there.intersection(meant)]
