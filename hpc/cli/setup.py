"""The command ``init``, which writes a new user's first files."""

from __future__ import annotations

from pathlib import Path

import click

from hpc.cli import output


@click.command(epilog=output.examples("hpc-serve init", "hpc-serve init --dir project"))
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option(
    "--dir", "folder", default=".", metavar="DIR", help="Folder for models.yaml [default: here]."
)
@output.json_option
def init(folder: str, *, force: bool, as_json: bool) -> None:
    """Write models.yaml and the site file from what Slurm and this machine report."""
    from hpc import site_setup

    written = site_setup.init(Path(folder), force=force)
    if as_json:
        return output.print_json({"models": str(written.models), "site": str(written.site)})
    output.echo(f"wrote {written.models}")
    output.echo(f"wrote {written.site}")
    output.echo("next, when you have looked through both:", err=True)
    for command in written.following:
        output.echo(f"  {command}", err=True)
    return None
