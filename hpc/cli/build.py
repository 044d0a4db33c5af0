"""The command ``build``: the container image of an engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from hpc import terminal
from hpc.cli.output import (
    echo,
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

    from rich.status import Status

    from hpc.config import Config
    from hpc.images.build import BuildImage

DEFINITION_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--bootstrap", help="Base: docker (default), localimage, debootstrap."),
    click.option("--from", "from_", metavar="IMAGE", help="Base image of the build."),
    click.option("--mirror", metavar="URL", help="Debian mirror [default: this machine's]."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Variable of the definition; may be repeated.",
    ),
)
BUILD_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--force", is_flag=True, help="Replace an existing image."),
    click.option("--output", metavar="FILE", help="SIF to write [default: images/ENGINE.sif]."),
    click.option(
        "--wheel-dir",
        type=click.Path(exists=True, file_okay=False, resolve_path=True),
        metavar="DIR",
        help="Folder of wheels for pip to search.",
    ),
    click.option(
        "--bind",
        "binds",
        multiple=True,
        metavar="SRC[:DEST]",
        help="Folder to bind into the build; may be repeated.",
    ),
)
JOB_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--in-job", is_flag=True, help="Build in a Slurm job, not on this machine."),
    click.option("--no-wait", is_flag=True, help="With --in-job: return at submission."),
    click.option("--partition", "-p", metavar="P", help="Slurm partition of the job."),
    click.option("--account", "-A", metavar="A", help="Slurm account of the job."),
    click.option("--cpus", type=int, default=4, show_default=True, help="CPUs of the job."),
    click.option(
        "--mem", default="16G", show_default=True, help="Memory of the job; none asks for none."
    ),
    click.option("--time", "-t", default="02:00:00", show_default=True, help="The job's walltime."),
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

    ENGINE is vllm, vllm-rocm, vllm-cpu, llamacpp-cuda, llamacpp-cpu or llamacpp-debian; arguments
    after -- are passed to apptainer build.
    """
    from hpc import config
    from hpc.images import build as building

    loaded = config.load(home=home)
    order = _order(loaded, engine, apptainer_args, options)
    building.check(order)
    if in_job:
        made = _in_job(loaded, order, options, wait=not no_wait)
    else:
        with spinner(f"building {engine}") as status:
            made = str(building.build(order, tell=lambda line: _tell(status, engine, line)))
    if as_json:
        print_json({"image": order.output, "job": made if in_job and no_wait else None})
    elif in_job and no_wait:
        echo(f"job {made} builds {order.output}")
    else:
        echo(f"built {made}")


def _order(
    loaded: Config, engine: str, apptainer_args: tuple[str, ...], options: dict[str, Any]
) -> BuildImage:
    from pathlib import Path

    from hpc.images.build import BuildImage
    from hpc.state import directory

    site = loaded.site
    output = options["output"] or directory.images_dir(loaded.home) / f"{engine}.sif"
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
    """Return the variables of a definition: the site's, overridden by the flags.

    Args:
        loaded: configuration whose site file may set ``KEY`` for all, or ``ENGINE.KEY`` for one.
        engine: the definition.
        options: values of the flags.

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
"""Variables of a definition with their own flags."""


def _in_job(loaded: Config, order: BuildImage, options: dict[str, Any], *, wait: bool) -> str:
    """Submit the build; return the finished image's path, or the job's id without waiting."""
    from hpc import config
    from hpc.config import sbatch_variables
    from hpc.images import build as building
    from hpc.jobs import api as jobs
    from hpc.model import JobRequest, Resources

    shell = sbatch_variables.resources(os.environ)
    try:
        resources = Resources(
            partition=options["partition"] or shell["partition"],
            account=options["account"] or shell["account"],
            qos=shell["qos"],
            constraint=shell["constraint"],
            cpus=options["cpus"],
            mem_mb=None if options["mem"] == "none" else config.parse_memory(options["mem"]),
            time_min=config.parse_time(options["time"]),
            extra=shell.get("extra", {}),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    request = JobRequest(f"build-{order.name}", resources)
    where = jobs.default_cluster()
    (job,) = jobs.submit(order, request, loaded.home, cluster=where, site=loaded.site)
    if not wait:
        return job.job_id
    with spinner(f"job {job.job_id} is in the queue") as status:
        made: Path = building.wait(order, job, tell=lambda line: _tell(status, order.name, line))
    return str(made)


def _tell(status: Status, engine: str, line: str) -> None:
    """Show a line of a build's log in one place, and for good if it is a note on settings."""
    from hpc.images.build import NOTE

    if line.startswith(NOTE):
        status.console.print(terminal.plain(line), soft_wrap=True)
    else:
        status.update(terminal.plain(f"building {engine}: {line.strip()[:100]}"))
