"""The command ``render``: scripts and definitions, printed instead of submitted."""

from __future__ import annotations

from typing import Any

import click

from hpc.cli.build import DEFINITION_OPTIONS, definition_settings
from hpc.cli.output import echo, examples, home_option, models_option, note, with_options
from hpc.cli.services import FLAGS as SERVICE_FLAGS


@click.group(epilog=examples("hpc-serve render sbatch mistral", "hpc-serve render apptainer vllm"))
def render() -> None:
    """Print a batch script or image definition without submitting or building."""


@render.command(epilog=examples("hpc-serve render sbatch mistral --time 08:00:00 | tail -n 20"))
@click.argument("name")
@click.option(
    "--replica",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Number of the replica, from 0.",
)
@with_options(SERVICE_FLAGS)
@models_option
@home_option
def sbatch(
    name: str, *, replica: int, models_file: str | None, home: str | None, **flags: Any
) -> None:
    """Print the batch script of a replica of NAME, as submit would send it."""
    from hpc import config
    from hpc.engines import plan
    from hpc.errors import ConfigError, EngineError
    from hpc.jobs import planning, submission
    from hpc.services import lifecycle

    loaded = config.load(models_file=models_file, flags=flags, home=home)
    spec = lifecycle.wanted(loaded, name)
    if replica >= spec.replicas:
        raise ConfigError(f"{name} has {spec.replicas} replica(s), counted from 0; not {replica}")
    for text in planning.planned(spec, cluster="slurm", files=False).notes:
        note(text)
    try:
        plan.check_files(spec)
    except EngineError as error:  # a script may be wanted before its image is built
        note(str(error))
    text = submission.script(spec, loaded.home, replica, templates=loaded.site.templates)
    echo(text, nl=False)


@render.command(epilog=examples("hpc-serve render apptainer llamacpp-cuda > llamacpp.def"))
@click.argument("engine")
@with_options(DEFINITION_OPTIONS)
@home_option
def apptainer(engine: str, *, home: str | None, **options: Any) -> None:
    """Print the Apptainer definition of ENGINE, as build would use it."""
    from hpc import config
    from hpc import render as rendering

    loaded = config.load(home=home)
    settings = definition_settings(loaded, engine, options)
    if settings.get("bootstrap") == "debootstrap" and not settings.get("mirror"):
        from hpc.images import apt_settings

        settings["mirror"] = apt_settings.mirror()
    text = rendering.definition(engine, settings, templates=loaded.site.templates)
    echo(text, nl=False)
