"""The command ``logs``: output of engines, sidecars and jobs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from hpc.cli.output import echo, examples, home_option, json_option, print_json
from hpc.errors import ConfigError
from hpc.state import directory

FOLLOW_EVERY_S = 0.5


@click.command(epilog=examples("hpc-serve logs mistral -f", "hpc-serve logs mistral --source job"))
@click.argument("name")
@click.option(
    "--replica", "-r", type=click.IntRange(0), metavar="N", help="Only this replica, from 0."
)
@click.option("--follow", "-f", is_flag=True, help="Print new lines as they appear, until Ctrl-C.")
@click.option(
    "--tail",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    metavar="N",
    help="Number of last lines to print.",
)
@click.option(
    "--source",
    type=click.Choice(["engine", "sidecar", "job"]),
    default="engine",
    show_default=True,
    help="Program whose log is printed; the job's own stands in for an engine that never started.",
)
@home_option
@json_option
def logs(
    name: str,
    replica: int | None,
    *,
    follow: bool,
    tail: int,
    source: str,
    home: str | None,
    as_json: bool,
) -> None:
    """Print the logs of the service NAME."""
    root = directory.home(home)
    spec = directory.load_spec(root, name)
    if spec is None:
        known = ", ".join(directory.services(root)) or "none"
        raise ConfigError(f"there is no service {name!r}; there are: {known}")
    if replica is not None and replica >= spec.replicas:
        raise ConfigError(f"{name} has {spec.replicas} replica(s), counted from 0; not {replica}")
    numbers = range(spec.replicas) if replica is None else [replica]
    files = {n: paths(root, name, n, source) for n in numbers}
    if as_json:
        print_json({str(n): [str(path) for path in found] for n, found in files.items()})
        return
    several = len(files) > 1
    prefixes = {path: f"[{n}] " if several else "" for n in files for path in files[n]}
    ends = {path: show(path, prefix, tail, follow) for path, prefix in prefixes.items()}
    while follow:
        time.sleep(FOLLOW_EVERY_S)
        for path, prefix in prefixes.items():
            ends[path] = more(path, prefix, ends[path])


def paths(root: Path, name: str, replica: int, source: str) -> list[Path]:
    """Return the log files of a replica."""
    job = directory.load_job(root, name, replica)
    own = sorted(Path(job.folder).glob(f"{job.job_id}_*_log.*")) if job else []
    engine = directory.engine_log(root, name, replica)
    if source == "job":
        return own
    if source == "sidecar":
        return [engine.with_name("sidecar.log")]
    # A job that died before its engine's start has told its cause in its own log.
    return [engine] if engine.exists() else [*own, engine]


def show(path: Path, prefix: str, tail: int, follow: bool) -> int:
    """Print the end of a log, and return the byte offset read so far.

    Args:
        path: the log.
        prefix: text before each line.
        tail: number of lines.
        follow: leave an unfinished last line to ``more``.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    data = _whole_lines(data) if follow else data
    _print(_lines(data)[-tail:] if tail else [], prefix)
    return len(data)


def more(path: Path, prefix: str, start: int) -> int:
    """Print the lines added to a log, and return the byte offset read so far.

    Args:
        path: the log; a file shorter than before counts as new.
        prefix: text before each line.
        start: byte offset read before.
    """
    try:
        with path.open("rb") as file:
            start = start if start <= file.seek(0, 2) else 0
            file.seek(start)
            data = _whole_lines(file.read())
    except OSError:
        return start
    _print(_lines(data), prefix)
    return start + len(data)


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _lines(data: bytes) -> list[str]:
    """Return lines as a terminal shows them: a progress bar's carriage returns begin no line."""
    text = data.decode(errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def _print(lines: list[str], prefix: str) -> None:
    if not sys.stdout.isatty():  # a file or a pipe gets the log as it is
        for line in lines:
            click.echo(f"{prefix}{line}")
        return
    for line in lines:
        # The state that a progress bar has reached: its carriage returns are control characters.
        echo(prefix + line.rstrip("\r").rpartition("\r")[2])
