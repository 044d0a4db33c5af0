"""The command ``clean``: the disk space of what is over, shown first and removed with --yes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc.cli import output
from hpc.errors import HpcServeError
from hpc.state import directory

if TYPE_CHECKING:
    from hpc.disk_usage import Leftover

UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
CACHES = (".cache/huggingface", ".apptainer/cache", ".singularity/cache")
"""Folders of other programs in the user's home, which are shown and never touched."""


def _age(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return the seconds of an age such as 12h, 7d or 4w.

    Raises:
        BadParameter: the text is no age.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is not an age; allowed: 12h, 7d, 4w", ctx, param)
    return int(found[1]) * UNITS[found[2]]


@click.command(
    epilog=output.examples(
        "hpc-serve clean", "hpc-serve clean --yes --older 7d", "hpc-serve clean --images --yes"
    )
)
@click.option("--yes", is_flag=True, help="Remove what is shown.")
@click.option("--images", is_flag=True, help="Also built images that nothing names.")
@click.option("--older", callback=_age, metavar="AGE", help="Only what is older, such as 7d.")
@output.models_option
@output.home_option
@output.json_option
def clean(
    *,
    yes: bool,
    images: bool,
    older: float | None,
    models_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Show the disk space of batches that are over, unused images and old logs.

    Nothing is removed without --yes.
    """
    from hpc import disk_usage

    root = directory.home(home)
    found = disk_usage.leftovers(root, kept=_named_images(models_file, home))
    chosen = [
        one
        for one in found
        if (images or one.kind != "image") and (older is None or one.age_s >= older)
    ]
    if yes:
        _remove(root, chosen)
    if as_json:
        return output.print_json([_as_dict(one) for one in found])
    if yes:
        return None
    _show(found, chosen)
    return None


def _named_images(models_file: str | None, home: str | None) -> list[str]:
    """Return the images of models.yaml, which the next submission needs."""
    from hpc import config

    loaded = config.load(models_file=models_file, home=home)
    return [spec.image for spec in loaded.services.values() if spec.image]


def _remove(root: Path, chosen: list[Leftover]) -> None:
    from hpc import disk_usage

    for one in chosen:
        try:
            disk_usage.remove(root, one)
        except (HpcServeError, OSError) as error:
            output.echo(f"not removed: {one.path.name}: {error}", err=True)
        else:
            output.echo(f"removed {one.kind} {one.path.name}, {size(one.size)}", err=True)


def _show(found: list[Leftover], chosen: list[Leftover]) -> None:
    if not found:
        output.echo("nothing is left over")
    else:
        rows = [
            [one.kind, one.path.name, size(one.size), output.duration(one.age_s), one.note]
            for one in found
        ]
        output.print_table(["KIND", "NAME", "SIZE", "AGE", "NOTE"], rows)
        total = size(sum(one.size for one in chosen))
        output.echo(f"next: hpc-serve clean --yes removes {len(chosen)} of them, {total}")
    for place in CACHES:
        folder = Path.home() / place
        if folder.is_dir():
            output.echo(f"not ours, and left alone: ~/{place}")


def _as_dict(one: Leftover) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "path": str(one.path),
        "bytes": one.size,
        "age_s": round(one.age_s),
        "note": one.note,
        "removed": not one.path.exists(),
    }


def size(count: int) -> str:
    """Return bytes in a short form: ``12 kB``, ``4.1 MB``, ``14.5 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{round(count / 1e3)} kB"
