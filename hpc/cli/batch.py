"""batch: files of requests, answered by jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from hpc import state
from hpc.cli import output
from hpc.cli.batch_text import as_dict, progress
from hpc.cli.services import ADHOC, FLAGS, adhoc_entry

OVER = frozenset({"DONE", "PAUSED", "CANCELLED", "STOPPED"})
WATCH_S = 2.0


@click.group(epilog=output.examples("hpc-serve batch ls"))
def batch() -> None:
    """Answer files of requests, whatever is killed meanwhile."""


@batch.command(
    epilog=output.examples(
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --name mistral --workers 4",
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --service mistral",
    )
)
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Answers."
)
@click.option("--name", metavar="NAME", help="Model of models.yaml that each job serves.")
@click.option("--service", metavar="NAME", help="Ask the replicas of a running service.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Jobs.")
@click.option("--at", metavar="TIME", help="Start no sooner, as sbatch --begin reads it.")
@click.option("--dependency", metavar="D", help="Start after other jobs, such as afterok:123.")
@click.option("--template", type=click.Path(path_type=Path), help="Message for a row of a CSV.")
@click.option("--skip-bad", is_flag=True, help="Leave faulty lines out.")
@click.option(
    "--request-timeout",
    type=float,
    default=600,
    show_default=True,
    metavar="S",
    help="Seconds for one try.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=5, show_default=True, help="Further tries."
)
@click.option(
    "--in-flight",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most requests at once.",
)
@output.with_options(ADHOC)
@output.with_options(tuple(flag for flag in FLAGS if flag is not FLAGS[0]))
@output.models_option
@output.home_option
@output.json_option
def submit(
    path: Path,
    out: Path,
    name: str | None,
    service: str | None,
    engine: str | None,
    model: str | None,
    engine_args: tuple[str, ...],
    *,
    workers: int,
    at: str | None,
    dependency: str | None,
    template: Path | None,
    skip_bad: bool,
    request_timeout: float,
    retries: int,
    in_flight: int,
    models_file: str | None,
    home: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Check FILE, share it out, and submit the jobs that answer it."""
    from hpc import config  # noqa: PLC0415 - help must not pay for submitit
    from hpc.batch import launch  # noqa: PLC0415
    from hpc.service import wanted as find_service  # noqa: PLC0415

    if engine is None and model is not None and name is None:
        name, model = model, None  # a model of models.yaml, as people say it
    entry = None if service else adhoc_entry(name, engine, model, engine_args)
    loaded = config.load(models_file=models_file, flags=flags, home=home, adhoc=entry)
    serves = None if service else find_service(loaded, entry["name"] if entry else str(name))
    extra = {"begin": at, "dependency": dependency}
    asked = launch.Wanted(
        path.absolute(),
        out.absolute(),
        serves.name if serves else str(service),
        workers=workers,
        extra={key: value for key, value in extra.items() if value},
        target=_gateway(loaded.home) if service else None,
        skip_bad=skip_bad,
        timeout_s=request_timeout,
        retries=retries,
        in_flight=in_flight,
        template=template,
    )
    spec = launch.submit(loaded.home, asked, engine=serves, cluster=None, site=loaded.site)
    if as_json:
        return output.print_json(state.encode(spec))
    click.echo(f"batch {spec.id}: {spec.rows} requests, {spec.workers} worker(s)")
    click.echo(f"  next: hpc-serve batch status {spec.id} --watch")
    return None


def _gateway(root: Path) -> Any:
    """Return the gateway of this machine with the owner's key."""
    import socket  # noqa: PLC0415

    from hpc import access  # noqa: PLC0415
    from hpc.batch.client import Target  # noqa: PLC0415
    from hpc.errors import GatewayError  # noqa: PLC0415

    record = state.load_gateway(root, socket.gethostname())
    if record is None:
        raise GatewayError("no gateway runs on this machine", hint="hpc-serve gateway start")
    host = "127.0.0.1" if record.host in {"0.0.0.0", "::"} else record.host  # noqa: S104
    return Target(f"http://{host}:{record.port}", access.owner_key(root))


@batch.command(epilog=output.examples("hpc-serve batch validate prompts.jsonl"))
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--name", default="any", metavar="NAME", help="Model for lines that say none.")
@output.json_option
@click.pass_context
def validate(ctx: click.Context, path: Path, name: str, *, as_json: bool) -> None:
    """Check every line of FILE and tell which are no requests."""
    from hpc.batch import intake  # noqa: PLC0415

    seen = intake.validate(path, None if name == "any" else name)
    if as_json:
        bad = [{"line": one.number, "reason": one.reason} for one in seen.first]
        output.print_json({"good": seen.good, "bad": seen.bad, "first": bad})
    else:
        for one in seen.first:
            click.echo(f"{path}:{one.number}: {one.reason}")
        click.echo(f"{seen.good} requests, {seen.bad} faulty line(s)")
    ctx.exit(9 if seen.bad else 0)


@batch.command(epilog=output.examples("hpc-serve batch ls"))
@output.home_option
@output.json_option
def ls(*, home: str | None, as_json: bool) -> None:
    """List batches."""
    from hpc.batch import cases  # noqa: PLC0415

    root = state.home(home)
    found = [cases.look(root, one) for one in cases.ids(root)]
    if as_json:
        return output.print_json([as_dict(one) for one in found])
    rows = [
        [one.spec.id, one.state, f"{one.done}/{one.spec.rows}", str(one.failed), one.spec.output]
        for one in found
    ]
    return output.print_table(["BATCH", "STATE", "DONE", "FAILED", "OUTPUT"], rows)


@batch.command(epilog=output.examples("hpc-serve batch status 1120-220000 --watch"))
@click.argument("batch_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Show it until it is over.")
@output.home_option
@output.json_option
def status(batch_id: str, *, watch: bool, home: str | None, as_json: bool) -> None:
    """Show how far a batch is and who works on it."""
    from hpc.batch import cases  # noqa: PLC0415

    root = state.home(home)
    seen = cases.look(root, batch_id)
    while watch and seen.state not in OVER:
        click.echo(progress(seen), err=True)
        time.sleep(WATCH_S)
        seen = cases.look(root, batch_id)
    if as_json:
        return output.print_json(as_dict(seen))
    click.echo(progress(seen))
    rows = [
        [w.name, w.job_id, w.host, w.phase, str(w.good), str(w.failed), str(w.in_flight)]
        for w in seen.workers
    ]
    return output.print_table(
        ["WORKER", "JOB", "NODE", "PHASE", "GOOD", "FAILED", "IN FLIGHT"], rows
    )


@batch.command(epilog=output.examples("hpc-serve batch pause 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def pause(batch_id: str, home: str | None) -> None:
    """Have the workers finish what is in flight and leave; resume goes on."""
    from hpc.batch import cases  # noqa: PLC0415

    cases.stop(state.home(home), batch_id, word="pause")
    click.echo(f"paused {batch_id}")


@batch.command(epilog=output.examples("hpc-serve batch cancel 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def cancel(batch_id: str, home: str | None) -> None:
    """End the jobs of a batch; its answers stay, and resume goes on."""
    from hpc.batch import cases  # noqa: PLC0415

    cases.stop(state.home(home), batch_id, word="cancel")
    click.echo(f"cancelled {batch_id}")


@batch.command(epilog=output.examples("hpc-serve batch resume 1120-220000"))
@click.argument("batch_id", metavar="ID")
@click.option("--workers", type=click.IntRange(1), help="Jobs [default: as submitted].")
@output.home_option
def resume(batch_id: str, workers: int | None, home: str | None) -> None:
    """Submit the workers that a batch lacks."""
    from hpc import config  # noqa: PLC0415
    from hpc.batch import cases  # noqa: PLC0415

    loaded = config.load(home=home)
    made = cases.resume(loaded.home, batch_id, workers=workers, cluster=None, site=loaded.site)
    click.echo(f"submitted {made} worker(s)")


@batch.command(epilog=output.examples("hpc-serve batch scale 1120-220000 8"))
@click.argument("batch_id", metavar="ID")
@click.argument("workers", type=click.IntRange(1), metavar="N")
@output.home_option
def scale(batch_id: str, workers: int, home: str | None) -> None:
    """Bring a batch to N workers."""
    from hpc import config  # noqa: PLC0415
    from hpc.batch import cases  # noqa: PLC0415

    loaded = config.load(home=home)
    change = cases.scale(loaded.home, batch_id, workers, cluster=None, site=loaded.site)
    click.echo(f"{change:+d} worker(s)")


@batch.command(epilog=output.examples("hpc-serve batch retry 1120-220000"))
@click.argument("batch_id", metavar="ID")
@click.option("--errors", is_flag=True, help="Those that ended in an error (the only choice).")
@output.home_option
def retry(batch_id: str, home: str | None, *, errors: bool) -> None:
    """Ask again what ended in an error."""
    from hpc import config  # noqa: PLC0415
    from hpc.batch import cases  # noqa: PLC0415

    del errors
    loaded = config.load(home=home)
    again = cases.retry(loaded.home, batch_id, cluster=None, site=loaded.site)
    click.echo(f"{again} request(s) are asked again")


@batch.command(epilog=output.examples("hpc-serve batch logs 1120-220000"))
@click.argument("batch_id", metavar="ID")
@output.home_option
def logs(batch_id: str, home: str | None) -> None:
    """Print what the jobs of a batch wrote."""
    from hpc import jobs  # noqa: PLC0415
    from hpc.batch import cases, launch  # noqa: PLC0415

    root = state.home(home)
    for handle in launch.handles(state.batch_dir(root, cases.look(root, batch_id).spec.id)):
        for path in jobs.logs(handle):
            text = state.read_text(path)
            if text:
                click.echo(f"==> {path} <==\n{text}")
