"""The command ``batch report``: the result of a batch, as text and as a plot."""

from __future__ import annotations

from pathlib import Path

import click

from hpc.cli import output
from hpc.cli.batch.text import as_dict, report_lines
from hpc.state import directory


@click.command(
    epilog=output.examples(
        "hpc-serve batch report 1120-220000",
        "hpc-serve batch report 1120-220000 --plot throughput.svg",
    )
)
@click.argument("batch_id", metavar="ID")
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Plot to a .svg, .png or .pdf."
)
@output.home_option
@output.json_option
def report(batch_id: str, *, plot: Path | None, home: str | None, as_json: bool) -> None:
    """Report on a batch: counts, throughput, tokens, GPU-hours."""
    from hpc.batch import control as batch_control
    from hpc.batch import throughput

    seen = batch_control.look(directory.home(home), batch_id)
    paces = throughput.paces(seen.workers)
    if plot is not None:
        from hpc.batch import throughput as drawing

        drawing.draw(paces, plot, title=f"batch {seen.spec.id}")
    if as_json:
        rows = [
            [round(pace.at, 3), round(pace.requests, 3), round(pace.tokens, 1), pace.workers]
            for pace in paces
        ]
        columns = ["at", "requests_per_s", "tokens_per_s", "workers"]
        return output.print_json(as_dict(seen) | {"pace": {"columns": columns, "rows": rows}})
    for line in report_lines(seen, paces):
        output.echo(line)
    if plot is not None:
        output.echo(f"plot     {plot}")
    return None
