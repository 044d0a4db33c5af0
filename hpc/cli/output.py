"""What every command prints with: tables that fit a terminal, or JSON for scripts."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.status import Status

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
home_option = click.option(
    "--home",
    metavar="DIR",
    help="State directory on the shared file system [default: $HPC_SERVE_HOME].",
)
models_option = click.option(
    "--models",
    "models_file",
    metavar="FILE",
    help="models.yaml to read [default: $HPC_SERVE_MODELS, ./models.yaml, user's configuration].",
)


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    """Return a decorator that adds options in their order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def examples(*lines: str) -> str:
    """Return examples for the end of a command's help, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings, as wide as the terminal allows."""
    from rich.console import Console  # noqa: PLC0415 - rich costs more than most commands
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, soft_wrap=False).print(table)


@contextmanager
def spinner(text: str) -> Iterator[Status]:
    """Show that something goes on, on stderr; silent where that is no terminal."""
    from rich.console import Console  # noqa: PLC0415

    with Console(stderr=True, highlight=False, markup=False).status(text) as status:
        yield status


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``42s``, ``3m10s``, ``2h05m``, ``1d04h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def left(until: float | None) -> str:
    """Return the time left until a Unix time, or a dash."""
    return "-" if until is None else duration(until - time.time())
