"""build: the container image of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hpc.cli.output import (
    examples,
    home_option,
    json_option,
    print_json,
    spinner,
    with_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpc.build import BuildImage
    from hpc.config import Config

DEFINITION_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--bootstrap", help="docker, localimage or debootstrap [default: docker]."),
    click.option("--from", "from_", metavar="IMAGE", help="Image to start from."),
    click.option("--mirror", metavar="URL", help="Debian mirror [default: that of this apt]."),
    click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Variable of the definition."
    ),
)
BUILD_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--force", is_flag=True, help="Replace an image that is there."),
    click.option("--output", metavar="FILE", help="SIF to write [default: images/ENGINE.sif]."),
    click.option(
        "--wheel-dir",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        metavar="DIR",
        help="Folder of wheels that pip looks into.",
    ),
    click.option("--bind", "binds", multiple=True, metavar="SRC[:DEST]", help="Folder to show."),
)
JOB_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--in-job", is_flag=True, help="Build in a job instead of here."),
    click.option("--no-wait", is_flag=True, help="Return once the job is submitted."),
    click.option("--partition", "-p", metavar="P", help="Partition of the job."),
    click.option("--account", "-A", metavar="A", help="Account that is charged."),
    click.option("--cpus", type=int, default=4, show_default=True, help="CPUs of the job."),
    click.option("--mem", default="16G", show_default=True, help="Memory of the job."),
    click.option("--time", "-t", default="02:00:00", show_default=True, help="Its walltime."),
)


@click.command(
    epilog=examples(
        "hpc-serve build vllm",
        "hpc-serve build llamacpp-debian --bootstrap debootstrap",
        "hpc-serve build vllm --in-job --partition cpu",
    )
)
@click.argument("engine")
@click.argument("apptainer_args", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARG...]")
@with_options(DEFINITION_OPTIONS)
@with_options(BUILD_OPTIONS)
@with_options(JOB_OPTIONS)
@home_option
@json_option
def build(
    engine: str,
    apptainer_args: tuple[str, ...],
    *,
    in_job: bool,
    no_wait: bool,
    home: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the container image of ENGINE into the state directory.

    ENGINE is vllm, vllm-rocm, vllm-cpu, llamacpp-cuda, llamacpp-cpu or llamacpp-debian; what
    follows -- goes to apptainer build.
    """
    from hpc import build as building
    from hpc import config

    loaded = config.load(home=home)
    order = _order(loaded, engine, apptainer_args, options)
    building.check(order)
    if in_job:
        made = _in_job(loaded, order, options, wait=not no_wait)
    else:
        with spinner(f"building {engine}") as status:
            made = str(building.build(order, tell=lambda line: status.update(_short(engine, line))))
    if as_json:
        print_json({"image": order.output, "job": made if in_job and no_wait else None})
    elif in_job and no_wait:
        click.echo(f"job {made} builds {order.output}")
    else:
        click.echo(f"built {made}")


def _order(
    loaded: Config, engine: str, apptainer_args: tuple[str, ...], options: dict[str, Any]
) -> BuildImage:
    from pathlib import Path

    from hpc import state
    from hpc.build import BuildImage

    site = loaded.site
    output = options["output"] or state.images_dir(loaded.home) / f"{engine}.sif"
    return BuildImage(
        name=engine,
        output=str(Path(output).expanduser().absolute()),
        settings=definition_settings(loaded, engine, options),
        binds=options["binds"],
        wheel_dir=options["wheel_dir"],
        apptainer_args=apptainer_args,
        program=site.apptainer,
        templates=str(site.templates) if site.templates else None,
        force=options["force"],
    )


def definition_settings(loaded: Config, engine: str, options: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a definition: the site's, then what the flags say.

    Args:
        loaded: its site's ``definition`` may say ``KEY`` for all, or ``ENGINE.KEY`` for one.
        engine: the definition.
        options: what the flags say.

    Raises:
        UsageError: a ``--set`` is not KEY=VALUE.
    """
    site = loaded.site
    given = {"mirror": site.debian_mirror} if site.debian_mirror else {}
    given |= {key: text for key, text in site.definition.items() if "." not in key}
    own = f"{engine}."
    given |= {k.removeprefix(own): v for k, v in site.definition.items() if k.startswith(own)}
    given |= {key: options[flag] for key, flag in FLAGS.items() if options[flag] is not None}
    for pair in options["settings"]:
        key, mark, value = pair.partition("=")
        if not mark:
            raise click.UsageError(f"--set {pair} is not KEY=VALUE")
        given[key] = value
    return given


FLAGS = {"bootstrap": "bootstrap", "from": "from_", "mirror": "mirror"}
"""Variables of a definition that have a flag of their own."""


def _in_job(loaded: Config, order: BuildImage, options: dict[str, Any], *, wait: bool) -> str:
    """Submit the build; return the image once it is there, or the job's id."""
    from hpc import build as building
    from hpc import config, jobs
    from hpc.model import Resources

    try:
        resources = Resources(
            partition=options["partition"],
            account=options["account"],
            cpus=options["cpus"],
            mem_mb=config.parse_memory(options["mem"]),
            time_min=config.parse_time(options["time"]),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    job = jobs.submit_callable(
        order,
        name=f"build-{order.name}",
        resources=resources,
        root=loaded.home,
        cluster=jobs.default_cluster(),
        site=loaded.site,
    )
    if not wait:
        return job.job_id
    with spinner(f"job {job.job_id} is in the queue") as status:
        tell: Callable[[str], None] = lambda line: status.update(_short(order.name, line))  # noqa: E731
        made: Path = building.wait(order, job, tell=tell)
    return str(made)


def _short(engine: str, line: str) -> str:
    return f"building {engine}: {line.strip()[:100]}"
