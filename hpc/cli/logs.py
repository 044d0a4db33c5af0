"""logs: what engines, sidecars and jobs wrote."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hpc import state
from hpc.cli.output import examples, home_option, json_option, print_json
from hpc.errors import ConfigError

FOLLOW_EVERY_S = 0.5


@click.command(epilog=examples("hpc-serve logs mistral -f", "hpc-serve logs mistral --source job"))
@click.argument("name")
@click.option("--replica", "-r", type=int, metavar="N", help="Only this replica, from 0.")
@click.option("--follow", "-f", is_flag=True, help="Go on as more is written; end with Ctrl-C.")
@click.option("--tail", type=int, default=100, show_default=True, metavar="N", help="Last lines.")
@click.option(
    "--source",
    type=click.Choice(["engine", "sidecar", "job"]),
    default="engine",
    show_default=True,
    help="Whose log.",
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
    """Print what the engines of the service NAME wrote."""
    root = state.home(home)
    spec = state.load_spec(root, name)
    if spec is None:
        known = ", ".join(state.services(root)) or "none"
        raise ConfigError(f"there is no service {name!r}; there are: {known}")
    numbers = range(spec.replicas) if replica is None else [replica]
    files = {n: paths(root, name, n, source) for n in numbers}
    if as_json:
        print_json({str(n): [str(path) for path in found] for n, found in files.items()})
        return
    several = len(files) > 1
    sizes = {path: show(path, n, tail, several) for n in files for path in files[n]}
    while follow:
        time.sleep(FOLLOW_EVERY_S)
        for n, found in files.items():
            for path in found:
                sizes[path] = more(path, n, sizes.get(path, 0), several)


def paths(root: Path, name: str, replica: int, source: str) -> list[Path]:
    """Return the log files of one replica."""
    if source == "job":
        job = state.load_job(root, name, replica)
        folder = Path(job.folder) if job else state.jobs_dir(root, name)
        return sorted(folder.glob(f"{job.job_id}_*_log.*")) if job else []
    engine = state.engine_log(root, name, replica)
    return [engine if source == "engine" else engine.with_name("sidecar.log")]


def show(path: Path, replica: int, tail: int, several: bool) -> int:
    """Print the end of a log; return how far it was read, in bytes."""
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    lines = data.decode(errors="replace").splitlines()[-tail:] if tail else []
    _print(lines, replica, several)
    return len(data)


def more(path: Path, replica: int, start: int, several: bool) -> int:
    """Print what was added to a log; return how far it was read, in bytes."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(start if start <= size else 0)
            data = file.read()
            end = file.tell()
    except OSError:
        return start
    _print(data.decode(errors="replace").splitlines(), replica, several)
    return end


def _print(lines: list[str], replica: int, several: bool) -> None:
    for line in lines:
        click.echo(f"[{replica}] {line}" if several else line)
