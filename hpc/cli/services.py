"""The commands of a service: submit, ls, status, wait and stop."""

from __future__ import annotations

import os
import re
import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hpc.cli.output import (
    duration,
    echo,
    examples,
    home_option,
    json_option,
    left,
    models_option,
    note,
    print_json,
    print_table,
    spinner,
    with_options,
)
from hpc.cli.service_text import as_dict, describe, phases
from hpc.model import Accelerator, Container, Engine, Server
from hpc.state import directory, records

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpc.config import Config
    from hpc.jobs.submission import Cluster
    from hpc.model import JobHandle
    from hpc.services.phase import Service

NAME_LENGTH = 63

FLAGS: tuple[Callable[[Any], Any], ...] = (
    click.option("--replicas", type=int, metavar="N", help="Number of jobs that serve the model."),
    click.option("--partition", "-p", metavar="P", help="Slurm partition."),
    click.option("--account", "-A", metavar="A", help="Slurm account that is charged."),
    click.option("--qos", metavar="Q", help="Slurm quality of service."),
    click.option("--constraint", metavar="C", help="Required node features."),
    click.option("--gpus", type=int, metavar="G", help="GPUs for each replica."),
    click.option("--gpu-type", metavar="TYPE", help="GRES type, as in gpu:h100:2."),
    click.option("--cpus", type=int, metavar="C", help="CPUs for each replica."),
    click.option("--mem", metavar="M", help="Memory for each replica, such as 64G, or none."),
    click.option("--time", "-t", metavar="T", help="Walltime, such as 08:00:00 or 1-12."),
    click.option(
        "--container",
        type=click.Choice(get_args(Container)),
        help="Container runtime of the engine.",
    ),
    click.option(
        "--image", metavar="IMAGE", help="Container image: a file, a sandbox or an address."
    ),
    click.option(
        "--server", type=click.Choice(get_args(Server)), help="Server program for the model."
    ),
    click.option(
        "--accelerator",
        type=click.Choice(get_args(Accelerator)),
        help="GPU libraries in the container.",
    ),
    click.option(
        "--load-timeout", type=int, metavar="S", help="Seconds from an engine's start to ready."
    ),
)
ADHOC = (
    click.option(
        "--engine",
        type=click.Choice(get_args(Engine)),
        help="Engine for --model; needs no models.yaml.",
    ),
    click.option("--model", metavar="M", help="Hugging Face id, GGUF file or model folder."),
    click.option(
        "--engine-arg",
        "engine_args",
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the server itself, such as max-model-len=8192; may be repeated.",
    ),
)

local_option = click.option(
    "--local", is_flag=True, help="Run on this machine, even where Slurm is."
)


def place_of_jobs(*, local: bool) -> Cluster:
    """Return the place of new jobs.

    Raises:
        ConfigError: the machine belongs to a Slurm cluster whose programs are not on PATH.
    """
    from hpc.jobs import api as jobs

    return "local" if local else jobs.default_cluster()


def tell_place(subject: str, where: Cluster, *, local: bool) -> None:
    """Print a line on stderr if new jobs run on this machine."""
    from hpc.jobs import api as jobs

    if where == "local":
        chosen = local or jobs.VARIABLE in os.environ
        why = "not Slurm, as asked" if chosen else "as there is no Slurm here (no sbatch on PATH)"
        echo(f"{subject} runs on this machine, {socket.gethostname()}: {why}", err=True)


def name_for(model: str) -> str:
    """Return a service name derived from a model's name."""
    from hpc.config import paths

    # ORG/NAME:FILE.gguf gives the file's name, ORG/NAME:TAG and a path their last part.
    model, _ = paths.hub_name(model, model)
    repo, _, tail = model.rpartition(":")
    stem = Path(tail if tail.endswith(".gguf") else repo or tail).name.removesuffix(".gguf")
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    return name[:NAME_LENGTH].rstrip("-._") or "model"


def adhoc_entry(
    name: str | None, engine: str | None, model: str | None, engine_args: tuple[str, ...]
) -> dict[str, Any] | None:
    """Return the entry described by flags alone, or None if models.yaml describes the model.

    Raises:
        UsageError: the flags contradict each other.
    """
    if engine is None and model is None:
        if name is None:
            raise click.UsageError(
                "give the NAME of a model in models.yaml, or --engine and --model"
            )
        if engine_args:
            raise click.UsageError("--engine-arg needs --engine; otherwise edit models.yaml")
        return None
    if engine is None or model is None:
        raise click.UsageError("--engine and --model must be given together")
    pairs = [pair.partition("=") for pair in engine_args]
    # A key without "=" is a bare flag of the server.
    values = {key: value if mark else True for key, mark, value in pairs}
    entry = {"name": name or name_for(model), "backend": engine, "model": model}
    return {**entry, "engine_args": values} if values else entry


@click.command(
    epilog=examples(
        "hpc-serve submit mistral --replicas 2 --time 08:00:00 --wait",
        "hpc-serve submit --engine llamacpp --model tiny.gguf --cpus 8",
        "hpc-serve submit --engine vllm --model mistralai/Mistral-7B-Instruct-v0.3 --gpus 1",
    )
)
@click.argument("name", required=False)
@with_options(ADHOC)
@with_options(FLAGS)
@local_option
@click.option("--wait", "wait_", is_flag=True, help="Wait until all replicas are ready.")
@click.option(
    "--dry-run", is_flag=True, help="Check everything, print the engine's command, submit nothing."
)
@models_option
@home_option
@json_option
def submit(
    name: str | None,
    engine: str | None,
    model: str | None,
    engine_args: tuple[str, ...],
    *,
    local: bool,
    wait_: bool,
    dry_run: bool,
    models_file: str | None,
    home: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Start the replicas of NAME in models.yaml, or of --engine and --model."""
    from hpc import config
    from hpc.services import lifecycle

    entry = adhoc_entry(name, engine, model, engine_args)
    loaded = config.load(models_file=models_file, flags=flags, home=home, adhoc=entry)
    chosen = entry["name"] if entry else str(name)
    if dry_run:
        return show_plan(loaded, chosen, as_json=as_json)
    started = time.monotonic()
    where = place_of_jobs(local=local)
    spec = lifecycle.submit(loaded, chosen, cluster=where, tell=note)
    tell_place(spec.name, where, local=local)
    if wait_:
        await_ready(loaded.home, spec.name, timeout_s=None)
    found = lifecycle.find(loaded.home, spec.name)
    if as_json:
        return print_json(as_dict(found))
    if not wait_:
        ids = ", ".join(_job(r.job) for r in found.replicas if r.job)
        echo(f"submitted {spec.name}: {spec.replicas} replica(s), job {ids}")
        echo(f"  next: hpc-serve wait {spec.name}")
        return None
    took = time.monotonic() - started
    echo(f"{spec.name} is ready: {found.ready} replica(s), {took:.1f} s after submission")
    echo("  next: hpc-serve gateway start")
    return None


def show_plan(loaded: Config, name: str, *, as_json: bool) -> None:
    """Print the plan of a submission, after its checks."""
    from hpc.services import lifecycle

    planned = lifecycle.plan_of(loaded, name)
    spec = planned.spec
    if as_json:
        plain = {"spec": records.encode(spec), "argv": planned.launch.argv, "notes": planned.notes}
        return print_json({"name": spec.name, **plain})
    for text in planned.notes:
        note(text)
    echo(f"{spec.name}: {spec.replicas} replica(s) of {spec.model} would be submitted")
    echo(f"  engine: {shlex.join(planned.launch.argv)}")
    return None


def _job(job: JobHandle) -> str:
    return f"{job.job_id} on {job.slurm_cluster}" if job.named_cluster else job.job_id


def await_ready(root: Path, name: str, *, timeout_s: float | None) -> Service:
    """Wait for a service, and show its phases on stderr."""
    from hpc.services import lifecycle, reach

    started = time.monotonic()
    said: dict[int, str] = {}
    with spinner(f"{name}: asking the scheduler") as status:

        def tell(seen: Service) -> None:
            for replica in seen.replicas:
                line = f"{name}/{replica.number} {describe(replica)}"
                if said.get(replica.number) != line:
                    said[replica.number] = line
                    echo(f"[{duration(time.monotonic() - started):>6}] {line}", err=True)
            status.update(f"{name}: {seen.ready} of {len(seen.replicas)} ready")

        found = lifecycle.wait(root, name, timeout_s=timeout_s, tell=tell)
    for number, told in reach.notes(root, found).items():
        echo(f"{name}/{number} {told}", err=True)
    return found


@click.command(epilog=examples("hpc-serve ls", "hpc-serve ls --json"))
@home_option
@json_option
def ls(*, home: str | None, as_json: bool) -> None:
    """List services and their phases."""
    from hpc.services import lifecycle

    found = lifecycle.look(directory.home(home))
    if as_json:
        print_json([as_dict(one) for one in found])
        return
    if not found:
        echo("no services; start one: hpc-serve submit NAME")
        return
    rows = [
        [
            one.spec.name,
            one.spec.server,
            f"{one.ready}/{len(one.replicas)}",
            phases(one),
            ", ".join(r.job.job_id for r in one.replicas if r.job),
            min((left(r.status.end_at) for r in one.replicas), default="-"),
        ]
        for one in found
    ]
    print_table(["NAME", "SERVER", "READY", "PHASES", "JOBS", "TIME LEFT"], rows)


@click.command(epilog=examples("hpc-serve wait mistral --timeout 600"))
@click.argument("name")
@click.option("--timeout", type=float, metavar="S", help="Longest wait in seconds.")
@home_option
@json_option
def wait(name: str, *, timeout: float | None, home: str | None, as_json: bool) -> None:
    """Wait until all replicas of the service NAME are ready."""
    found = await_ready(directory.home(home), name, timeout_s=timeout)
    if as_json:
        print_json(as_dict(found))
    else:
        echo(f"{name} is ready: {found.ready} replica(s)")


@click.command(epilog=examples("hpc-serve stop mistral", "hpc-serve stop --all"))
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "all_", is_flag=True, help="Stop every service.")
@click.option(
    "--force", is_flag=True, help="Cancel at once, and forget jobs that are not seen to end."
)
@home_option
@json_option
def stop(
    names: tuple[str, ...], *, all_: bool, force: bool, home: str | None, as_json: bool
) -> None:
    """Stop the services NAME... and remove their records.

    Serving replicas are drained first: streams in flight get 20 s to end.
    """
    from hpc.services import lifecycle

    root = directory.home(home)
    if not names and not all_:
        raise click.UsageError("give the NAME of a service, or --all")
    stopped = []
    for name in directory.services(root) if all_ else names:
        with spinner(f"stopping {name}"):
            left = lifecycle.stop(root, name, force=force)
        stopped.append(name)
        for job in left:
            echo(f"job {_job(job)} of {name} was not seen to end and is forgotten", err=True)
        if not as_json:
            echo(f"stopped {name}")
    if as_json:
        print_json({"stopped": stopped})
