"""batch submit and batch validate: from a file to jobs, tonight or every night."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc import records, state
from hpc.cli import output
from hpc.cli.services import ADHOC, FLAGS, adhoc_entry

if TYPE_CHECKING:
    from hpc.batch.launch import Wanted
    from hpc.config import Config
    from hpc.model import ServiceSpec

FAULTY = 9
PATH = click.Path(path_type=Path)

WHEN = (
    click.option("--at", metavar="TIME", help="Start no sooner, as sbatch --begin reads it."),
    click.option("--dependency", metavar="D", help="Start after other jobs, such as afterok:123."),
    click.option(
        "--every",
        metavar="CRON",
        help="Run it again and again; five fields as in crontab(5). {date} and {time} in paths.",
    ),
    click.option(
        "--every-partition",
        metavar="P",
        help="Partition of the small job that starts each run  [default: the model's].",
    ),
    click.option(
        "--max-hours",
        type=click.FloatRange(min=0, min_open=True),
        metavar="H",
        help="Pause after so many hours of work; batch resume or the next run goes on.",
    ),
    click.option("--on-done", metavar="COMMAND", help="Shell command to run once all is answered."),
    click.option("--mail", metavar="ADDRESS", help="Have Slurm write when a job ends or fails."),
)
HOW = (
    click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Jobs."),
    click.option("--template", type=PATH, help="Message for a row of a CSV or Parquet file."),
    click.option("--skip-bad", is_flag=True, help="Leave faulty lines out."),
    click.option(
        "--request-timeout",
        type=float,
        default=600,
        show_default=True,
        metavar="S",
        help="Seconds for one try.",
    ),
    click.option(
        "--retries", type=click.IntRange(0), default=5, show_default=True, help="Further tries."
    ),
    click.option(
        "--model-patience",
        type=click.FloatRange(min=0),
        default=3600,
        show_default=True,
        metavar="S",
        help="With --service: seconds without the model after which the batch pauses.",
    ),
    click.option(
        "--in-flight",
        type=click.IntRange(1),
        default=256,
        show_default=True,
        help="Most requests at once.",
    ),
)


@click.command(
    epilog=output.examples(
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --name mistral --workers 4",
        "hpc-serve batch submit prompts.jsonl -o answers.jsonl --service mistral",
        "hpc-serve batch submit table.parquet -o answers.parquet --name mistral --template q.j2",
        "hpc-serve batch submit in.jsonl -o 'out-{date}.jsonl' --name m --every '0 22 * * mon-fri'",
    )
)
@click.argument("path", type=PATH, metavar="FILE")
@click.option("-o", "--output", "out", required=True, type=PATH, help="Answers.")
@click.option("--name", metavar="NAME", help="Model of models.yaml that each job serves.")
@click.option("--service", metavar="NAME", help="Ask the replicas of a running service.")
@output.with_options(WHEN)
@output.with_options(HOW)
@output.with_options(ADHOC)
@output.with_options(tuple(flag for flag in FLAGS if flag is not FLAGS[0]))
@output.models_option
@output.home_option
@output.json_option
@click.pass_context
def submit(ctx: click.Context, /, *, as_json: bool, **options: Any) -> None:
    """Check FILE, share it out, and submit the jobs that answer it."""
    from hpc.batch import launch

    loaded, serves = _served(options)
    if options["every"] is not None:
        return _schedule(ctx, loaded, serves, options, as_json=as_json)
    if options["every_partition"] is not None:
        raise click.UsageError("--every-partition goes with --every")
    told = [f"--{name}" for name in ("at", "dependency", "mail") if options[name]]
    if told and serves is None:
        raise click.UsageError(
            f"{' and '.join(told)} are for Slurm; the workers of --service run on this machine"
        )
    asked = _wanted(loaded, serves, options)
    spec = launch.submit(
        loaded.home,
        asked,
        engine=serves,
        cluster=None,
        site=loaded.site,
        watch=lambda found: output.counted(found, f"reading {asked.path.name}"),
    )
    if as_json:
        return output.print_json(records.encode(spec))
    click.echo(f"batch {spec.id}: {spec.rows} requests, {spec.workers} worker(s)")
    click.echo(f"  next: hpc-serve batch status {spec.id} --watch")
    return None


def _served(options: dict[str, Any]) -> tuple[Config, ServiceSpec | None]:
    """Return the configuration and the model that each job serves."""
    from hpc import config
    from hpc.service import wanted as find_service

    name, model, service = options["name"], options["model"], options["service"]
    if options["engine"] is None and model is not None and name is None:
        name, model = model, None  # a model of models.yaml, as people say it
    entry = None
    if not service:
        entry = adhoc_entry(name, options["engine"], model, options["engine_args"])
    flags = {key: options[key] for key in output.names_of(FLAGS) if key in options}
    loaded = config.load(
        models_file=options["models_file"], flags=flags, home=options["home"], adhoc=entry
    )
    if service:
        return loaded, None
    return loaded, find_service(loaded, entry["name"] if entry else str(name))


def _wanted(loaded: Config, serves: ServiceSpec | None, options: dict[str, Any]) -> Wanted:
    from hpc.batch import launch

    extra = {"begin": options["at"], "dependency": options["dependency"]}
    if options["mail"]:
        extra |= {"mail-type": "END,FAIL", "mail-user": options["mail"]}
    return launch.Wanted(
        options["path"].absolute(),
        options["out"].absolute(),
        serves.name if serves else str(options["service"]),
        workers=options["workers"],
        extra={key: value for key, value in extra.items() if value},
        target=None if serves else _gateway(loaded.home, str(options["service"])),
        skip_bad=options["skip_bad"],
        timeout_s=options["request_timeout"],
        retries=options["retries"],
        in_flight=options["in_flight"],
        template=options["template"],
        max_hours=options["max_hours"],
        on_done=options["on_done"],
        model_patience_s=options["model_patience"],
    )


def _schedule(
    ctx: click.Context,
    loaded: Config,
    serves: ServiceSpec | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Have the same words run again and again."""
    from hpc.batch import schedule
    from hpc.cli.batch_schedule import describe

    if serves is None:
        raise click.UsageError(
            "--every needs jobs with engines of their own (--name): runs start on a compute node, "
            "where the gateway of --service does not listen"
        )
    if options["at"] or options["dependency"]:
        raise click.UsageError("--every says when; leave --at and --dependency out")
    words = output.words(ctx, leave_out=("every", "every_partition", "as_json", "home"))
    made = schedule.make(
        loaded.home,
        when=options["every"],
        words=words,
        output=str(options["out"]),
        resources=serves.resources,
        partition=options["every_partition"],
        site=loaded.site,
    )
    if as_json:
        return output.print_json(describe(made))
    click.echo(f"schedule {made.id}: next run {describe(made)['next']}, started by {made.via}")
    click.echo(f"  see it with: hpc-serve batch schedules; end it with: batch unschedule {made.id}")
    return None


def _gateway(root: Path, service: str) -> Any:
    """Return the gateway of this machine with the owner's key, once it knows the model."""
    import socket

    from hpc import access
    from hpc.batch import check
    from hpc.batch.client import Target
    from hpc.errors import GatewayError

    record = state.load_gateway(root, socket.gethostname())
    if record is None:
        raise GatewayError("no gateway runs on this machine", hint="hpc-serve gateway start")
    host = "127.0.0.1" if record.host in {"0.0.0.0", "::"} else record.host  # noqa: S104
    target = Target(f"http://{host}:{record.port}", access.owner_key(root))
    known = None
    with contextlib.suppress(check.RefusedError):  # a new key of ours, which counts in a moment
        known = check.models_of(target.url, target.key or "")
    if known is not None and service not in known:
        told = f"the gateway has no model {service!r}; it has {', '.join(sorted(known)) or 'none'}"
        raise GatewayError(told, hint="start it with 'hpc-serve submit', then batch submit")
    return target


@click.command(epilog=output.examples("hpc-serve batch validate prompts.jsonl"))
@click.argument("path", type=PATH, metavar="FILE")
@click.option("--name", default="any", metavar="NAME", help="Model for lines that say none.")
@click.option("--template", type=PATH, help="Message for a row of a CSV or Parquet file.")
@output.json_option
@click.pass_context
def validate(
    ctx: click.Context, path: Path, name: str, template: Path | None, *, as_json: bool
) -> None:
    """Check every line of FILE and tell which are no requests."""
    from hpc.batch import intake

    model = None if name == "any" and template is None else name
    found = intake.read(path, model, template)
    seen = intake.validate(output.counted(found, f"reading {path.name}"))
    if as_json:
        bad = [{"line": one.number, "reason": one.reason} for one in seen.first]
        output.print_json({"good": seen.good, "bad": seen.bad, "first": bad})
    else:
        for one in seen.first:
            click.echo(f"{path}:{one.number}: {one.reason}")
        click.echo(f"{seen.good} requests, {seen.bad} faulty line(s)")
    ctx.exit(FAULTY if seen.bad else 0)
