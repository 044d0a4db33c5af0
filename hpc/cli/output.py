"""Output of all commands: tables that fit a terminal, or JSON for scripts."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hpc import terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.status import Status

T = TypeVar("T")

COUNT_EVERY = 1000

STATES = {"PHASE", "PHASES", "STATE"}
"""Columns whose words for states have a colour."""
STYLES = {
    "green": ("READY", "DONE", "running", "up"),
    "yellow": ("QUEUED", "STARTING", "LOADING", "WARMING", "DRAINING", "PAUSED", "down"),
    "red": ("FAILED", "gone"),
    "dim": ("STOPPED", "CANCELLED"),
}

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
    """Return a decorator that adds options in the given order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def names_of(options: tuple[Callable[[Any], Any], ...]) -> list[str]:
    """Return the parameter names of options."""

    def bare() -> None: ...

    return [str(param.name) for param in click.command()(with_options(options)(bare)).params]


def examples(*lines: str) -> str:
    """Return examples for the end of a command's help, each on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may hold words of others, without terminal control characters."""
    click.echo(terminal.plain(text), err=err, nl=nl)


def note(text: str) -> None:
    """Print a note on stderr, in one line."""
    echo(f"note: {text}", err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings: as wide as the terminal, or each row on a line of a pipe.

    Words for states have a colour on terminals, unless NO_COLOR is set.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, soft_wrap=False)
    if not console.is_terminal:
        return _print_lines(columns, [[*map(terminal.plain, row)] for row in rows])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [Text(terminal.plain(cell)) for cell in row]
        for cell, column in zip(cells, columns, strict=True):
            if column in STATES:
                for style, words in STYLES.items():
                    cell.highlight_words(words, style)
        table.add_row(*cells)
    console.print(table)
    return None


def _print_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row on a line, which programs can read and nothing folds."""
    lines = [[cell.replace("\n", " ") for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@contextmanager
def spinner(text: str) -> Iterator[Status]:
    """Show a spinner on stderr; silent if stderr is not a terminal."""
    from rich.console import Console

    with Console(stderr=True, highlight=False, markup=False).status(terminal.plain(text)) as status:
        yield status


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line on stderr; on a terminal each line replaces the last."""
    if sys.stderr.isatty():
        with spinner("") as status:
            yield lambda text: status.update(terminal.plain(text))
    else:
        yield lambda text: echo(text, err=True)


def counted(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield items while showing their count on stderr, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    with spinner(what) as status:
        for number, item in enumerate(items, 1):
            if number % COUNT_EVERY == 0:
                status.update(f"{what}: {number}")
            yield item


def words(ctx: click.Context, *, leave_out: Sequence[str]) -> list[str]:
    """Return the arguments of the current command line, to run the same command again.

    Args:
        ctx: context of the command.
        leave_out: names of parameters to leave out.
    """
    found = []
    for param in ctx.command.params:
        name = str(param.name)
        if name in leave_out or ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        value, option = ctx.params[name], max(param.opts, key=len)
        if isinstance(param, click.Argument):
            found.append(str(value))
        elif getattr(param, "is_flag", False):
            found += [option] if value else []
        else:
            values = value if param.multiple else (value,)
            # Joined by "=", so that a value may begin with a dash.
            found += [f"{option}={one}" for one in values]
    return found


def duration(seconds: float) -> str:
    """Return seconds in a short form: ``42s``, ``3m10s``, ``2h05m``, ``1d04h``."""
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
